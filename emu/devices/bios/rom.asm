# The BIOS ROM: 16-bit code that runs in the guest, at F000:0000. Intel syntax; tests assemble it with keystone and
# compare the result with the bytes in rom.py. It opens with one little-endian word for each interrupt vector from
# 00h to 77h: the offset of its handler.
#
# A service handler pushes AX, writes its number to the service port 0BEh and returns: the monitor does the work while
# the OUT executes. It finds the caller's AX on top of the stack, the return address above it, and the caller's FLAGS
# above that; carry and zero results go into that image, so that IRET gives them to the caller. The few services that
# give back a segment register load it here.

table:
    .short divide, ignore, ignore, ignore, ignore, ignore, invalid, absent
    .short irq0, irq1, irq_master, irq_master, irq_master, irq_master, irq_master, irq_master
    .short int10, int11, int12, int13, ignore, int15, int16, ignore
    .short int18, int19, int1a, ignore, ignore, 0, diskette, 0
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short int13, 0, int10, 0, 0, ignore, 0, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short ignore, ignore, ignore, ignore, ignore, ignore, ignore, ignore
    .short irq8, irq_slave, irq_slave, irq_slave, irq_slave, irq_slave, irq_slave, irq_slave

# The reset vector jumps here: pulse the reset line through the keyboard controller.
reset:
    mov al, 0xFE
    out 0x64, al
    cli
reset_wait:
    hlt
    jmp reset_wait

ignore:
    iret

# Faults that a plain return would repeat for ever: the monitor prints which and where, then the CPU stops.
divide:
    push ax
    mov al, 0x00
    jmp fatal
invalid:
    push ax
    mov al, 0x06
    jmp fatal
absent:
    push ax
    mov al, 0x07
    jmp fatal
int18:
    push ax
    mov al, 0x18
fatal:
    out 0xBE, al
    cli
fatal_wait:
    hlt
    jmp fatal_wait

# INT 10h: AX=1130h gives the font in ES:BP, which is whatever vector 43h tells: the display has its own.
int10:
    cmp ax, 0x1130
    je font
    push ax
    mov al, 0x10
    jmp service
int11:
    push ax
    mov al, 0x11
    jmp service
int12:
    push ax
    mov al, 0x12
    jmp service
# INT 13h: the parameters of a floppy drive (AH=08h) come with the diskette table in ES:DI.
int13:
    cmp ah, 0x08
    jne disk
    test dl, 0x80
    jnz disk
    push cs
    pop es
    .byte 0xBF                      # mov di, diskette: keystone takes no offset as an immediate
    .short diskette
disk:
    push ax
    mov al, 0x13
    jmp service
int1a:
    push ax
    mov al, 0x1A
service:
    out 0xBE, al
    pop ax
    iret
font:
    push ds
    xor cx, cx
    mov ds, cx
    les bp, [0x10C]
    pop ds
    mov cx, 16
    mov dl, 24
    iret

# INT 15h: AH=C0h and C1h tell where the configuration table and the extended BIOS data are. Only the wait (AH=86h)
# blocks. The monitor answers 0 in AL while the time has not passed; the
# real-time clock's periodic interrupt, or the timer's, ends each HLT.
int15:
    cmp ah, 0xC0
    je where_configuration
    cmp ah, 0xC1
    je where_extended
    cmp ah, 0x86
    je wait_begin
    push ax
    mov al, 0x15
    jmp service
where_configuration:
    push cs
    pop es
    .byte 0xBB                      # mov bx, configuration
    .short configuration
    mov ah, 0
    jmp no_carry
where_extended:
    push ds
    push ax
    mov ax, 0x40
    mov ds, ax
    mov es, word ptr [0x0E]
    pop ax
    pop ds
no_carry:
    push bp
    mov bp, sp
    and byte ptr [bp + 6], 0xFE
    pop bp
    iret
wait_begin:
    push ax
    mov al, 0x86
    out 0xBE, al
wait_poll:
    cli
    mov al, 0x87
    out 0xBE, al
    test al, al
    jnz wait_done
    sti
    hlt
    jmp wait_poll
wait_done:
    pop ax
    iret

# INT 16h: the functions that fetch a key (AH=00h, 10h) first wait until the buffer's head (40:1A) leaves its tail.
int16:
    test ah, 0xEF
    jnz key_service
    push ds
    push bx
    mov bx, 0x40
    mov ds, bx
key_poll:
    cli
    mov bx, word ptr [0x1A]
    cmp bx, word ptr [0x1C]
    jne key_ready
    sti
    hlt
    jmp key_poll
key_ready:
    pop bx
    pop ds
key_service:
    push ax
    mov al, 0x16
    jmp service

# INT 19h: boot the first disk; when the monitor answers 1 in AL it has read its first sector to 0:7C00 and put its
# number into DL.
int19:
    mov al, 0x19
    push ax
    out 0xBE, al
    test al, al
    jz int18
    xor ax, ax
    mov ds, ax
    mov es, ax
    cli
    mov ss, ax
    mov sp, 0x7C00
    sti
    ljmp 0:0x7C00

# IRQ 0: count the tick (40:6C, midnight flag at 40:70) and call the user's hook.
irq0:
    push ds
    push ax
    mov ax, 0x40
    mov ds, ax
    inc dword ptr [0x6C]
    cmp dword ptr [0x6C], 0x1800B0
    jb tick_hook
    mov dword ptr [0x6C], 0
    mov byte ptr [0x70], 1
tick_hook:
    int 0x1C
    mov al, 0x20
    out 0x20, al
    pop ax
    pop ds
    iret

# IRQ 1: take the scan code; the monitor turns it into shift flags and an entry of the keyboard buffer.
irq1:
    push ax
    in al, 0x60
    mov ah, al
    push ax
    mov al, 0x09
    out 0xBE, al
    pop ax
    mov al, 0x20
    out 0x20, al
    pop ax
    iret

# IRQ 8: reading register C lets the real-time clock interrupt again; an alarm calls its handler, INT 4Ah.
irq8:
    push ax
    mov al, 0x0C
    out 0x70, al
    in al, 0x71
    test al, 0x20
    jz end_slave
    int 0x4A
    jmp end_slave
irq_slave:
    push ax
end_slave:
    mov al, 0x20
    out 0xA0, al
    jmp end_master
irq_master:
    push ax
    mov al, 0x20
end_master:
    out 0x20, al
    pop ax
    iret

# The diskette parameters that vector 1Eh points to: step and head times, 512-byte sectors, 18 a track, gaps, fill
# byte, head settle (ms) and motor start (1/8 s).
diskette:
    .byte 0xDF, 0x02, 0x25, 0x02, 0x12, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08

# What INT 15h AH=C0h shows: 8 bytes, an AT (FCh, 01h), revision 0; second 8259, real-time clock and extended BIOS
# data area are there, and INT 16h AH=09h is.
configuration:
    .byte 0x08, 0x00, 0xFC, 0x01, 0x00, 0x64, 0x40, 0x00, 0x00, 0x00
