; Far JMP and CALL to code segments, conforming or not, with their faults; RETF at the same level (SDM vol. 3, 5.8.1, 5.8.2; vol. 2, CALL, JMP, RET); no CALL and RETF beyond the limit, which QEMU reports with a selector or not at all
.include "env32.inc"

.macro go name, body
    try \name, {\body}
.endm
; A far return to selector:address
.macro back selector, at
    push \selector
    push \at
    retf
.endm
.macro returns name, selector, at
    mov ebp, esp
    try \name, {back \selector, \at}
    mov esp, ebp
.endm

start:
    segment FREE, 0, 0xfffff, 0xc09f        ; conforming
    segment FREE2, 0, 0xfffff, 0xc01b       ; not present
    segment FREE3, 0, 0xfffff, 0xc099       ; execute-only
    segment FREE4, 0, 0x0fff, 0x409b        ; of 4 KiB
    segment FREE5, 0, 0xfffff, 0xc0ff       ; conforming, of level 3
    segment FREE6, 0, 0xfffff, 0xc01f       ; conforming, not present
    go "JMP", {ljmp CODE:here}
    go "JMP with RPL 3", {ljmp CODE + 3:here}
    go "JMP to conforming code", {ljmp FREE:here}
    go "JMP to conforming code with RPL 3", {ljmp FREE + 3:here}
    go "JMP to conforming code of level 3", {ljmp FREE5:here}
    go "JMP to level 3", {ljmp CODE3:here}
    go "JMP to execute-only code", {ljmp FREE3:here}
    go "JMP to nothing", {ljmp 0:here}
    go "JMP to nothing with RPL", {ljmp 2:here}
    go "JMP beyond the GDT", {ljmp 0x80:here}
    go "JMP into no LDT", {ljmp 0x0c:here}
    go "JMP to data", {ljmp DATA:here}
    go "JMP to code not present", {ljmp FREE2:here}
    go "JMP to conforming code not present", {ljmp FREE6:here}
    go "JMP beyond the limit", {ljmp FREE4:here}
    go "CALL", {lcall CODE:here}
    go "CALL with RPL 3", {lcall CODE + 3:here}
    go "CALL to conforming code with RPL 3", {lcall FREE + 3:here}
    go "CALL to level 3", {lcall CODE3:here}
    go "CALL to nothing", {lcall 0:here}
    go "CALL to data", {lcall DATA:here}
    go "CALL to code not present", {lcall FREE2:here}
    show_fault R_ESP
    newline
    returns "RETF", CODE, here
    returns "RETF to conforming code", FREE, here
    returns "RETF to nothing", 0, here
    returns "RETF to data", DATA, here
    returns "RETF beyond the GDT", 0x80, here
    returns "RETF to code not present", FREE2, here
    returns "RETF to conforming code of level 3", FREE5, here
    segment FREE2, 0, 0xfffff, 0xc0fb
    segment FREE3, 0, 0xfffff, 0xc0f9
    user "level 3: JMP", 0x3000, {ljmp CODE3:here}
    user "level 3: JMP with RPL 3", 0x3000, {ljmp CODE3 + 3:here}
    user "level 3: JMP to level 0", 0x3000, {ljmp CODE:here}
    user "level 3: JMP to conforming code", 0x3000, {ljmp FREE:here}
    user "level 3: CALL to conforming code", 0x3000, {lcall FREE + 1:here}
    user "level 3: CALL to execute-only code", 0x3000, {lcall FREE3 + 3:here}
    user "level 3: RETF", 0x3000, {back CODE3 + 3, here}
    user "level 3: RETF to level 0", 0x3000, {back CODE, here}
    user "level 3: RETF with RPL 0", 0x3000, {back CODE3, here}
    user "level 3: RETF to conforming code", 0x3000, {back FREE + 3, here}
    jmp finish

; CS and the stack where a transfer led
here:
    mov ebx, esp
    mov eax, cs
    show eax
    sub ebx, dword ptr [resume_esp]
    show ebx
    show {dword ptr [esp+4]}
    show {dword ptr [esp+8]}
    mov eax, cs
    test al, 3
    jnz .outer
    mov esp, dword ptr [resume_esp]
    newline
    jmp dword ptr [resume]
.outer:
    newline
    int LEAVE
