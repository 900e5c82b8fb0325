; What levels 1 and 2 may do: supervisors for paging, but neither privileged nor, by their IOPL, masters of IF (SDM vol. 3, 5.5, 5.9; vol. 2, CLI, POPF)
.include "env32.inc"

; Names a case and performs it at a level whose code and stack segments are FREE and FREE2
.macro at level, name, flags, body
    segment FREE, 0, 0xfffff, 0xc09b+\level*0x20
    segment FREE2, 0, 0xfffff, 0xc093+\level*0x20
    arm \name, .resume\@
    push DATA3 + 3
    pop ds
    push ds
    pop es
    push FREE2 + \level
    push STACK2
    push 2 + \flags
    push FREE + \level
    push .outer\@
    iretd
.outer\@:
    \body
    int LEAVE
.resume\@:
    mov dword ptr [resume], 0
.endm
.macro flags value
    push \value
    popfd
    pushfd
    pop ebx
.endm
.macro all level
    at \level, "CLI, IOPL 0", 0x200, {cli}
    at \level, "STI, IOPL 0", 0, {sti}
    at \level, "CLI, IOPL 1", 0x1200, {cli}
    at \level, "CLI, IOPL 2", 0x2200, {cli}
    at \level, "STI, IOPL 2", 0x2000, {sti}
    at \level, "POPF, IOPL 0", 0x200, {flags 0x3000}
    show ebx
    at \level, "POPF, IOPL 0, IF", 0, {flags 0x200}
    show ebx
    at \level, "POPF, IOPL 1", 0x1200, {flags 0}
    show ebx
    at \level, "POPF, IOPL 2", 0x2200, {flags 0}
    show ebx
    at \level, "HLT", 0, {hlt}
    at \level, "MOV from CR0", 0, {mov eax, cr0}
    at \level, "LGDT", 0, {lgdt [gdtr]}
    at \level, "INVLPG", 0, {invlpg [gdtr]}
    at \level, "CLTS", 0, {clts}
    at \level, "STAC", 0, {stac}
    at \level, "CLAC", 0, {clac}
    at \level, "IN, IOPL 0", 0, {in al, 0x21}
    at \level, "IN, IOPL 2", 0x2000, {in al, 0x21}
    at \level, "SGDT", 0, {sgdt [scratch]}
.endm

start:
    all 1
    all 2
    jmp finish
scratch:
    .long 0, 0
