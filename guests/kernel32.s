; guest: kernel32
; summary: a 32-bit multiboot kernel with its own GDT, IDT and paging, timer and keyboard interrupts
; format: multiboot
; container: elf
; mode: 32
; org: 0x100000
; tags: system
; expect:
;   multiboot: ok
;   segments: ok
;   exception 0 error 00000000
;   exception 3 error 00000000
;   exception 4 error 00000000
;   exception 5 error 00000000
;   exception 6 error 00000000
;   exception 11 error 00000018
;   exception 12 error 00000018
;   exception 13 error 00000050
;   exception 13 error 00000000
;   system call 80: 5
;   paging: on
;   alias: 12345678
;   accessed and dirty: 60 20 60
;   page fault at 00401004 error 00000003, fixed
;   read back: cafe0001
;   page fault at 00402abc error 00000000, fixed
;   read back: 0badf00d
;   page fault at 00403ffe error 00000002, fixed
;   page fault at 00404000 error 00000002, fixed
;   across pages: 11223344
;   page fault at dead0000 error 00000002
;   page fault at badc0000 error 00000000
;   page fault at 00400000 error 00000000
;   timer: 5 ticks
;   keyboard: scancode 1e
;   done

.equ MULTIBOOT_FLAGS, 2         ; memory information wanted
.equ PAGE_DIRECTORY, 0x200000
.equ PAGE_TABLE, 0x201000
.equ FRAME, 0x300000            ; physical pages that the table maps
.equ STACK, 0x1f0000
.equ CODE, 0x08
.equ DATA, 0x10
.equ ABSENT, 0x18               ; a segment whose P bit is clear

    .long 0x1badb002, MULTIBOOT_FLAGS, 0 - (0x1badb002 + MULTIBOOT_FLAGS)

; run an instruction that faults; the handler goes on behind it
.macro expect_fault instruction
    mov dword ptr [resume], after_\@
    \instruction
after_\@:
.endm

.macro say name
    mov esi, \name
    call puts
.endm

_start:
    cli
    cld
    mov esp, STACK
    cmp eax, 0x2badb002
    jne bad_loader
    test dword ptr [ebx], 1     ; mem_lower and mem_upper are valid
    jz bad_loader
    cmp dword ptr [ebx+8], 15 * 1024
    jb bad_loader
    say text_multiboot

    lgdt [gdtr]
    ljmp CODE:.reloaded
.reloaded:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov eax, cs
    cmp eax, CODE
    jne bad_loader
    say text_segments

    mov edi, idt                ; gates for vectors 0 to 2fh, and 80h for system calls
    mov esi, stubs
    mov ecx, 48
.gates:
    mov eax, dword ptr [esi]
    call write_gate
    add esi, 4
    add edi, 8
    dec ecx
    jnz .gates
    mov edi, idt + 0x80 * 8
    mov eax, system_call
    call write_gate
    lidt [idtr]

    mov eax, 1
    xor edx, edx
    xor ecx, ecx
    expect_fault {div ecx}
    expect_fault int3
    mov eax, 0x7fffffff         ; OF set, so INTO traps
    add eax, 1
    expect_fault into
    mov eax, 9
    expect_fault {bound eax, [bounds]}
    expect_fault ud2
    mov eax, ABSENT
    expect_fault {mov es, eax}
    expect_fault {mov ss, eax}
    mov eax, 0x53               ; beyond the table's end; the error code drops RPL
    expect_fault {mov fs, eax}
    xor eax, eax
    expect_fault {mov ss, eax}  ; SS takes no null selector
    mov eax, 2
    mov ecx, 3
    int 0x80
    say text_call
    call putdec
    call newline

    call start_paging
    call page_tests
    call start_interrupts

    mov dword ptr [ticks], 0
    mov al, 0xfe                ; IRQ 0 only
    out 0x21, al
.timer:
    sti
    hlt
    cli
    cmp dword ptr [ticks], 5
    jb .timer
    say text_timer

    mov dword ptr [scancode], 0
    mov al, 0xfd                ; IRQ 1 only
    out 0x21, al
    call controller_ready
    mov al, 0x60                ; write the command byte: interrupt, translation, keyboard enabled
    out 0x64, al
    call controller_ready
    mov al, 0x45
    out 0x60, al
    call controller_ready
    mov al, 0xd2                ; the next byte appears as if the keyboard had sent it
    out 0x64, al
    call controller_ready
    mov al, 0x1e
    out 0x60, al
.keyboard:
    sti
    hlt
    cli
    cmp dword ptr [scancode], 0
    je .keyboard
    say text_keyboard
    mov eax, dword ptr [scancode]
    mov ecx, 2
    call puthexn
    call newline
    say text_done
    jmp finish

bad_loader:
    say text_bad
    mov al, 1
    out DEBUG_EXIT, al
    jmp finish.stop

controller_ready:               ; waits until the i8042 takes a byte
    in al, 0x64
    test al, 2
    jnz controller_ready
    ret

newline:
    push eax
    mov al, 10
    call putc
    pop eax
    ret

write_gate:                     ; EDI: gate, EAX: handler; a present 32-bit interrupt gate of DPL 0
    mov word ptr [edi], ax
    mov word ptr [edi+2], CODE
    mov word ptr [edi+4], 0x8e00
    shr eax, 16
    mov word ptr [edi+6], ax
    ret

; ---- paging -------------------------------------------------------------------------------------------------

start_paging:
    mov edi, PAGE_DIRECTORY     ; directory and table, both empty
    xor eax, eax
    mov ecx, 2048
    rep stosd
    mov dword ptr [PAGE_DIRECTORY], 0x83                    ; 0..4 MiB as it is, one large page
    mov dword ptr [PAGE_DIRECTORY + 4], PAGE_TABLE + 3      ; 4..8 MiB in small pages
    mov dword ptr [PAGE_DIRECTORY + 0x800], 0x83            ; 2 GiB: a second view of the first 4 MiB
    mov dword ptr [PAGE_TABLE], FRAME + 3                   ; writable
    mov dword ptr [PAGE_TABLE + 4], FRAME + 0x1000 + 1      ; read-only
    mov eax, cr4
    or eax, 0x10                ; PSE
    mov cr4, eax
    mov eax, PAGE_DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000          ; PG, WP
    mov cr0, eax
    say text_paging
    ret

page_tests:
    mov dword ptr [0x400000], 0x12345678
    mov eax, dword ptr [0x80000000 + FRAME]
    say text_alias
    call puthex
    call newline
    say text_bits               ; of the small page, then of the large one after its read and after a write
    mov eax, dword ptr [PAGE_TABLE]
    call put_bits
    mov eax, dword ptr [PAGE_DIRECTORY + 0x800]
    call put_bits
    mov dword ptr [0x80000000 + FRAME + 16], 1
    mov eax, dword ptr [PAGE_DIRECTORY + 0x800]
    call put_bits
    call newline

    mov byte ptr [fixing], 1    ; from here the handler repairs the page table and the access happens again
    mov dword ptr [0x401004], 0xcafe0001
    mov eax, dword ptr [FRAME + 0x1004]
    call put_read_back
    mov dword ptr [FRAME + 0x2abc], 0x0badf00d
    mov eax, dword ptr [0x402abc]
    call put_read_back
    mov dword ptr [0x403ffe], 0x11223344                    ; two faults, one after the other
    say text_across
    movzx eax, word ptr [FRAME + 0x4000]
    shl eax, 16
    mov ax, word ptr [FRAME + 0x3ffe]
    call puthex
    call newline

    mov byte ptr [fixing], 0
    expect_fault {mov dword ptr [0xdead0000], 1}
    mov ecx, 0xbadc0000
    mov dword ptr [resume], .fetched
    call ecx
.fetched:
    add esp, 4                  ; what the call pushed
    mov dword ptr [PAGE_TABLE], 0
    invlpg [0x400000]
    expect_fault {mov eax, dword ptr [0x400000]}
    ret

put_bits:                       ; EAX: entry; prints its accessed and dirty bits
    push eax
    mov al, ' '
    call putc
    pop eax
    and eax, 0x60
    mov ecx, 2
    jmp puthexn

put_read_back:
    say text_back
    call puthex
    jmp newline

; ---- exceptions ---------------------------------------------------------------------------------------------

.macro stub vector
stub_\vector:
    push 0                      ; in place of an error code
    push \vector
    jmp exception
.endm
.macro error_stub vector
stub_\vector:
    push \vector
    jmp exception
.endm

    stub 0
    stub 1
    stub 2
    stub 3
    stub 4
    stub 5
    stub 6
    stub 7
    error_stub 8
    stub 9
    error_stub 10
    error_stub 11
    error_stub 12
    error_stub 13
    error_stub 14
    stub 15
    stub 16
    error_stub 17
    stub 18
    stub 19
    stub 20

exception:                      ; on the stack: vector, error code, EIP, CS, EFLAGS
    pushad
    cmp dword ptr [esp+32], 14
    je .page_fault
    say text_exception
    mov eax, dword ptr [esp+32]
    call putdec
    say text_error
    mov eax, dword ptr [esp+36]
    call puthex
    call newline
.skip:
    mov eax, dword ptr [resume]
    mov dword ptr [esp+40], eax
    popad
    add esp, 8
    iretd
.page_fault:
    say text_fault
    mov eax, cr2
    call puthex
    say text_error
    mov eax, dword ptr [esp+36]
    call puthex
    cmp byte ptr [fixing], 0
    jne .fix
    call newline
    jmp .skip
.fix:
    mov ecx, cr2                ; map the page to its frame, writable, and try again
    mov eax, ecx
    shr eax, 12
    and eax, 0x3ff
    mov edx, eax
    shl edx, 12
    add edx, FRAME + 3
    mov dword ptr [eax*4 + PAGE_TABLE], edx
    invlpg [ecx]
    say text_fixed
    popad
    add esp, 8
    iretd

system_call:                    ; EAX + ECX in EAX
    add eax, ecx
    iretd

; ---- interrupts ---------------------------------------------------------------------------------------------

start_interrupts:
    mov al, 0x11                ; ICW1..4 of both 8259s: vectors 20h and 28h, cascade on 2, 8086 mode
    out 0x20, al
    out 0xa0, al
    mov al, 0x20
    out 0x21, al
    mov al, 0x28
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov al, 0x34                ; 8254 counter 0: both bytes, mode 2, 11932 pulses (100 Hz)
    out 0x43, al
    mov al, 11932 & 255
    out 0x40, al
    mov al, 11932 >> 8
    out 0x40, al
    ret

irq0:
    push eax
    inc dword ptr [ticks]
    mov al, 0x20
    out 0x20, al
    pop eax
    iretd

irq1:
    push eax
    in al, 0x60
    movzx eax, al
    mov dword ptr [scancode], eax
    mov al, 0x20
    out 0x20, al
    pop eax
    iretd

irq_other:                      ; only a spurious interrupt comes here
    iretd

; ---- data ---------------------------------------------------------------------------------------------------

.align 8, 0
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf13000000ffff    ; ABSENT
gdtr:
    .word $ - gdt - 1
    .long gdt
idtr:
    .word 0x81 * 8 - 1
    .long idt
.align 4, 0
stubs:
    .long stub_0, stub_1, stub_2, stub_3, stub_4, stub_5, stub_6, stub_7, stub_8, stub_9, stub_10, stub_11
    .long stub_12, stub_13, stub_14, stub_15, stub_16, stub_17, stub_18, stub_19, stub_20
    .long irq_other, irq_other, irq_other, irq_other, irq_other, irq_other
    .long irq_other, irq_other, irq_other, irq_other, irq_other
    .long irq0, irq1, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other
    .long irq_other, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other, irq_other
resume:
    .long 0
ticks:
    .long 0
scancode:
    .long 0
bounds:
    .long 0, 8
fixing:
    .byte 0

text_multiboot:
    .asciz "multiboot: ok\n"
text_bad:
    .asciz "not loaded as multiboot asks\n"
text_segments:
    .asciz "segments: ok\n"
text_exception:
    .asciz "exception "
text_error:
    .asciz " error "
text_call:
    .asciz "system call 80: "
text_paging:
    .asciz "paging: on\n"
text_alias:
    .asciz "alias: "
text_bits:
    .asciz "accessed and dirty:"
text_back:
    .asciz "read back: "
text_across:
    .asciz "across pages: "
text_fault:
    .asciz "page fault at "
text_fixed:
    .asciz ", fixed\n"
text_timer:
    .asciz "timer: 5 ticks\n"
text_keyboard:
    .asciz "keyboard: scancode "
text_done:
    .asciz "done\n"

.include "console32.inc"

.align 8, 0
idt:
    .space 0x81 * 8
