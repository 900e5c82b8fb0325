; REP string instructions that fault in the middle: ECX, ESI and EDI at the fault, what was stored, and how they go on (SDM vol. 2, REP; vol. 1, 7.3.9.3); no REPNE SCAS, whose flags QEMU does not restore at a fault
.include "env32.inc"
.include "paging32.inc"

.equ EDGE, TESTS + 0x1000
.equ SOURCE, 0x190000

.macro string name, from, to, count, body
    call fresh
    arm \name, .resume\@
    mov esi, \from
    mov edi, \to
    mov ecx, \count
    mov eax, 0x11223344
    \body
    say "done\n"
    mov dword ptr [fault_registers+4*R_ECX], ecx
    mov dword ptr [fault_registers+4*R_ESI], esi
    mov dword ptr [fault_registers+4*R_EDI], edi
.resume\@:
    cld
    call tell
.endm
.macro backward body
    std
    \body
.endm

start:
    mov edi, SOURCE
    mov ecx, 256
    mov eax, 0x01020304
.fill:
    stosd
    add eax, 0x04040404
    loop .fill
    call paging_on
    string "REP STOSD", 0, EDGE - 16, 10, {rep stosd}
    string "REP STOSB", 0, EDGE - 3, 10, {rep stosb}
    string "REP STOSW across the edge", 0, EDGE - 5, 10, {rep stosw}
    string "REP MOVSD to it", SOURCE, EDGE - 12, 8, {rep movsd}
    string "REP MOVSB from it", EDGE - 5, FRAMES + 0x2000, 8, {rep movsb}
    string "REP MOVSD across the edge", SOURCE, EDGE - 6, 8, {rep movsd}
    string "REP MOVSB at once", SOURCE, EDGE, 8, {rep movsb}
    string "REP LODSD", EDGE - 8, 0, 5, {rep lodsd}
    string "REPE CMPSB", EDGE - 4, SOURCE + 0x80000, 100, {repe cmpsb}
    string "REP STOSD backward", 0, TESTS + 8, 10, {backward {rep stosd}}
    string "REP MOVSB backward", SOURCE + 20, TESTS + 3, 10, {backward {rep movsb}}
    string "REP STOSD, no times", 0, EDGE, 0, {rep stosd}
    string "STOSD", 0, EDGE, 5, {stosd}
    page 0, FRAMES + 7
    page 1, FRAMES + 0x1007
    page 2, 0
    string "REP STOSD through a page", 0, EDGE - 8, 2000, {rep stosd}
    string "REP MOVSD through a page", TESTS, TESTS + 0x20, 4000, {rep movsd}

    say "made present by the handler: "
    page 1, 0
    gate idt + 14 * 8, CODE, mapper, 0x8e00
    mov edi, EDGE - 8
    mov ecx, 8
    mov eax, 0x55667788
    rep stosd
    show ecx
    show edi
    show {dword ptr [FRAMES+0xffc]}
    show {dword ptr [FRAMES+0x1000]}
    show {dword ptr [FRAMES+0x1014]}
    show {dword ptr [FRAMES+0x1018]}
    newline
    jmp finish

mapper:
    mov dword ptr [TABLE+4], FRAMES + 0x1007
    add esp, 4
    iretd

fresh:
    mov eax, cr3
    mov cr3, eax
    mov dword ptr [FRAMES+0xff0], 0xa5a5a5a5
    mov dword ptr [FRAMES+0xff4], 0xa5a5a5a5
    mov dword ptr [FRAMES+0xff8], 0xa5a5a5a5
    mov dword ptr [FRAMES+0xffc], 0xa5a5a5a5
    mov dword ptr [FRAMES], 0xa5a5a5a5
    mov dword ptr [FRAMES+0x2000], 0xa5a5a5a5
    mov dword ptr [FRAMES+0x2004], 0xa5a5a5a5
    page 1, 0
    ret
tell:
    show_fault R_ECX
    show_fault R_ESI
    show_fault R_EDI
    show {dword ptr [FRAMES+0xff4]}
    show {dword ptr [FRAMES+0xff8]}
    show {dword ptr [FRAMES+0xffc]}
    show {dword ptr [FRAMES]}
    show {dword ptr [FRAMES+0x2004]}
    newline
    ret
