; guest: sensitive64
; summary: runs every sensitive instruction at both privilege levels in 64-bit mode and prints what it saw
; format: elf
; mode: 64
; org: 0x100000
; tags: system
; note: a line is the test, where it ran, and the exception, or "ok" and EAX
; note: "as cpuid says": #UD or ok, whichever CPUID announces for the feature
; note: where QEMU differs: SDM vol. 2 RDMSR, WRMSR, MOV (null SS), IRET; vol. 3, 2.5 (high half of CR0),
; note: 6.13 (error code of INT), 6.15 (#SS for a stack address that is not canonical)
; qemu-line: 74 mov_to_cr0_high        cpl0       ok 80000011
; qemu-line: 99 wrmsr_not_canonical    cpl0       ok 00000001
; qemu-line: 101 rdmsr_reserved         cpl0       ok 00000000
; qemu-line: 236 mov_ss_null_rpl3       cpl0       ok 00000003
; qemu-line: 288 not_canonical_stack    cpl0       #GP(0000)
; qemu-line: 289 not_canonical_stack    cpl3       #GP(0000)
; qemu-line: 323 int_40                 cpl3       #GP(0402)
; qemu-line: 330 int_13                 cpl3       #GP(00d2)
; expect:
;   cli                    cpl0       ok 00000000
;   cli                    cpl3       #GP(0000)
;   cli                    cpl3 iopl3 ok 00000000
;   sti                    cpl0       ok 00000200
;   sti                    cpl3       #GP(0000)
;   sti                    cpl3 iopl3 ok 00000200
;   pushf                  cpl0       ok 00000200
;   pushf                  cpl3       ok 00000200
;   pushf                  cpl3 iopl3 ok 00003200
;   pushfw                 cpl0       ok 00000200
;   pushfw                 cpl3       ok 00000200
;   pushfw                 cpl3 iopl3 ok 00003200
;   popf                   cpl0       ok 00003000
;   popf                   cpl3       ok 00000200
;   popf                   cpl3 iopl3 ok 00003000
;   popfw                  cpl0       ok 00003000
;   popfw                  cpl3       ok 00000200
;   popfw                  cpl3 iopl3 ok 00003000
;   popf_set_if            cpl0       ok 00000200
;   popf_set_if            cpl3       ok 00000000
;   popf_set_if            cpl3 iopl3 ok 00003200
;   hlt                    cpl0       ok 00000001
;   hlt                    cpl3       #GP(0000)
;   hlt                    cpl3 iopl3 #GP(0000)
;   out_80                 cpl0       ok 00000001
;   out_80                 cpl3       ok 00000001
;   out_80                 cpl3 iopl3 ok 00000001
;   in_80                  cpl0       ok 00000001
;   in_80                  cpl3       ok 00000001
;   in_80                  cpl3 iopl3 ok 00000001
;   in_87                  cpl0       ok 00000001
;   in_87                  cpl3       #GP(0000)
;   in_87                  cpl3 iopl3 ok 00000001
;   in_dword_80            cpl0       ok 00000001
;   in_dword_80            cpl3       #GP(0000)
;   in_dword_80            cpl3 iopl3 ok 00000001
;   out_beyond_map         cpl3       #GP(0000)
;   ins                    cpl0       ok 00080001
;   ins                    cpl3       #GP(0000)
;   ins                    cpl3 iopl3 ok 00080001
;   rep_outs               cpl0       ok 00000003
;   rep_outs               cpl3       #GP(0000)
;   rep_outs               cpl3 iopl3 ok 00000003
;   lgdt                   cpl0       ok 00000001
;   lgdt                   cpl3       #GP(0000)
;   lidt                   cpl0       ok 00000001
;   lidt                   cpl3       #GP(0000)
;   lldt                   cpl0       ok 00000040
;   lldt                   cpl3       #GP(0000)
;   lldt_null              cpl0       ok 00000000
;   lldt_null              cpl3       #GP(0000)
;   lldt_data              cpl0       #GP(0010)
;   lldt_data              cpl3       #GP(0000)
;   ltr                    cpl0       ok 0000008b
;   ltr                    cpl3       #GP(0000)
;   ltr_busy               cpl0       #GP(0030)
;   ltr_busy               cpl3       #GP(0000)
;   lmsw_keeps_pe          cpl0       ok 00000001
;   lmsw_keeps_pe          cpl3       #GP(0000)
;   lmsw                   cpl0       ok 00000009
;   lmsw                   cpl3       #GP(0000)
;   clts                   cpl0       ok 00000001
;   clts                   cpl3       #GP(0000)
;   invlpg                 cpl0       ok 00000001
;   invlpg                 cpl3       #GP(0000)
;   invd                   cpl0       ok 00000001
;   invd                   cpl3       #GP(0000)
;   wbinvd                 cpl0       ok 00000001
;   wbinvd                 cpl3       #GP(0000)
;   mov_from_cr0           cpl0       ok 80000001
;   mov_from_cr0           cpl3       #GP(0000)
;   mov_to_cr0             cpl0       ok 80000011
;   mov_to_cr0             cpl3       #GP(0000)
;   mov_to_cr0_high        cpl0       #GP(0000)
;   mov_to_cr0_high        cpl3       #GP(0000)
;   mov_to_cr2             cpl0       ok 12345678
;   mov_to_cr2             cpl3       #GP(0000)
;   mov_from_cr3           cpl0       ok 00200000
;   mov_from_cr3           cpl3       #GP(0000)
;   mov_to_cr3             cpl0       ok 00200000
;   mov_to_cr3             cpl3       #GP(0000)
;   mov_from_cr4           cpl0       ok 00000020
;   mov_from_cr4           cpl3       #GP(0000)
;   mov_to_cr4             cpl0       ok 00000024
;   mov_to_cr4             cpl3       #GP(0000)
;   mov_to_cr8             cpl0       ok 00000005
;   mov_to_cr8             cpl3       #GP(0000)
;   mov_to_cr1             cpl0       #UD
;   mov_to_dr0             cpl0       ok 12340000
;   mov_to_dr0             cpl3       #GP(0000)
;   mov_from_dr7           cpl0       ok 00000400
;   mov_from_dr7           cpl3       #GP(0000)
;   mov_to_dr7             cpl0       ok 00000400
;   mov_to_dr7             cpl3       #GP(0000)
;   rdmsr                  cpl0       ok 001b0008
;   rdmsr                  cpl3       #GP(0000)
;   wrmsr                  cpl0       ok ffff9234
;   wrmsr                  cpl3       #GP(0000)
;   wrmsr_not_canonical    cpl0       #GP(0000)
;   wrmsr_not_canonical    cpl3       #GP(0000)
;   rdmsr_reserved         cpl0       #GP(0000)
;   rdmsr_reserved         cpl3       #GP(0000)
;   rdpmc                  cpl3       #GP(0000)
;   rdtsc                  cpl0       ok 00000001
;   rdtsc                  cpl3       ok 00000001
;   rdtsc_tsd              cpl0       ok 00000001
;   rdtsc_tsd              cpl3       #GP(0000)
;   rdtscp                 cpl0       as cpuid says
;   rdtscp                 cpl3       as cpuid says
;   cpuid                  cpl0       ok 00000001
;   cpuid                  cpl3       ok 00000001
;   sysenter               cpl0       ok 00000008
;   sysenter               cpl3       ok 00000008
;   sysexit                cpl0       ok 0023001b
;   sysexit                cpl3       #GP(0000)
;   sysexitq               cpl0       ok 0033002b
;   sysexitq               cpl3       #GP(0000)
;   syscall                cpl0       ok 00000008
;   syscall                cpl3       ok 00000008
;   syscall_disabled       cpl0       #UD
;   syscall_disabled       cpl3       #UD
;   sysretq                cpl0       ok 2301002b
;   sysretq                cpl3       #GP(0000)
;   sysret                 cpl0       ok 0023001b
;   sysret                 cpl3       #GP(0000)
;   sysret_disabled        cpl0       #UD
;   sysret_disabled        cpl3       #UD
;   swapgs                 cpl0       ok 22221111
;   swapgs                 cpl3       #GP(0000)
;   stac                   cpl0       as cpuid says
;   clac                   cpl0       as cpuid says
;   stac_user              cpl3       #UD
;   clac_user              cpl3       #UD
;   xgetbv                 cpl0       #UD
;   xgetbv                 cpl3       #UD
;   xsetbv                 cpl0       #UD
;   xsetbv                 cpl3       #UD
;   rdfsbase               cpl0       #UD
;   rdfsbase               cpl3       #UD
;   rdgsbase               cpl0       #UD
;   rdgsbase               cpl3       #UD
;   wrfsbase               cpl0       #UD
;   wrfsbase               cpl3       #UD
;   wrgsbase               cpl0       #UD
;   wrgsbase               cpl3       #UD
;   rdpkru                 cpl0       #UD
;   rdpkru                 cpl3       #UD
;   rsm                    cpl0       #UD
;   rsm                    cpl3       #UD
;   ud2                    cpl0       #UD
;   ud2                    cpl3       #UD
;   sgdt                   cpl0       ok 00000087
;   sgdt                   cpl3       ok 00000087
;   sidt                   cpl0       ok 00000fff
;   sidt                   cpl3       ok 00000fff
;   sldt                   cpl0       ok 00000040
;   sldt                   cpl3       ok 00000040
;   str                    cpl0       ok 00000030
;   str                    cpl3       ok 00000030
;   smsw                   cpl0       ok 00000001
;   smsw                   cpl3       ok 00000001
;   lar_code               cpl0       ok 00a09b01
;   lar_code               cpl3       ok 00000000
;   lar_code_rpl3          cpl0       ok 00000000
;   lar_code_rpl3          cpl3       ok 00000000
;   lar_user_code          cpl0       ok 00a0fb01
;   lar_user_code          cpl3       ok 00a0fb01
;   lar_user_code32        cpl0       ok 00c0fb01
;   lar_user_code32        cpl3       ok 00c0fb01
;   lar_user_data          cpl0       ok 00c0f301
;   lar_user_data          cpl3       ok 00c0f301
;   lar_conforming         cpl0       ok 00a09f01
;   lar_conforming         cpl3       ok 00a09f01
;   lar_task               cpl0       ok 00008b01
;   lar_task               cpl3       ok 00000000
;   lar_local              cpl0       ok 00008201
;   lar_local              cpl3       ok 00000000
;   lar_gate               cpl0       ok 0010ec01
;   lar_gate               cpl3       ok 0010ec01
;   lar_absent             cpl0       ok 00c07301
;   lar_absent             cpl3       ok 00c07301
;   lar_null               cpl0       ok 00000000
;   lar_null               cpl3       ok 00000000
;   lar_beyond             cpl0       ok 00000000
;   lar_beyond             cpl3       ok 00000000
;   lsl_data               cpl0       ok fffffff1
;   lsl_data               cpl3       ok 00000000
;   lsl_user_code          cpl0       ok fffffff1
;   lsl_user_code          cpl3       ok fffffff1
;   lsl_small              cpl0       ok 00000ff1
;   lsl_small              cpl3       ok 00000ff1
;   lsl_task               cpl0       ok 00000071
;   lsl_task               cpl3       ok 00000000
;   lsl_gate               cpl0       ok 00000000
;   lsl_gate               cpl3       ok 00000000
;   lsl_beyond             cpl0       ok 00000000
;   lsl_beyond             cpl3       ok 00000000
;   verr_code              cpl0       ok 00000001
;   verr_code              cpl3       ok 00000000
;   verr_user_code         cpl0       ok 00000001
;   verr_user_code         cpl3       ok 00000001
;   verr_conforming        cpl0       ok 00000001
;   verr_conforming        cpl3       ok 00000001
;   verr_execute_only      cpl0       ok 00000000
;   verr_execute_only      cpl3       ok 00000000
;   verr_task              cpl0       ok 00000000
;   verr_task              cpl3       ok 00000000
;   verr_null              cpl0       ok 00000000
;   verr_null              cpl3       ok 00000000
;   verw_data              cpl0       ok 00000001
;   verw_data              cpl3       ok 00000000
;   verw_user_data         cpl0       ok 00000001
;   verw_user_data         cpl3       ok 00000001
;   verw_read_only         cpl0       ok 00000000
;   verw_read_only         cpl3       ok 00000000
;   verw_user_code         cpl0       ok 00000000
;   verw_user_code         cpl3       ok 00000000
;   mov_from_cs            cpl0       ok 00000008
;   mov_from_cs            cpl3       ok 0000002b
;   mov_from_ss            cpl0       ok 00000010
;   mov_from_ss            cpl3       ok 00000023
;   mov_from_ds            cpl0       ok 00000010
;   mov_from_ds            cpl3       ok 00000023
;   mov_from_gs            cpl0       ok 00000010
;   mov_from_gs            cpl3       ok 00000023
;   push_fs                cpl0       ok 00000010
;   push_fs                cpl3       ok 00000023
;   pop_gs                 cpl0       ok 00000023
;   pop_gs                 cpl3       ok 00000023
;   mov_ds_null            cpl0       ok 00000000
;   mov_ds_null            cpl3       ok 00000000
;   mov_ss_null            cpl0       ok 00000000
;   mov_ss_null            cpl3       #GP(0000)
;   mov_ds_null_rpl3       cpl0       ok 00000003
;   mov_ds_null_rpl3       cpl3       ok 00000003
;   mov_ss_null_rpl3       cpl0       #GP(0000)
;   mov_ss_null_rpl3       cpl3       #GP(0000)
;   mov_ds_data            cpl0       ok 00000010
;   mov_ds_data            cpl3       #GP(0010)
;   mov_ss_data            cpl0       ok 00000010
;   mov_ss_data            cpl3       #GP(0010)
;   mov_ds_user_data       cpl0       ok 00000023
;   mov_ds_user_data       cpl3       ok 00000023
;   mov_ss_user_data       cpl0       #GP(0020)
;   mov_ss_user_data       cpl3       ok 00000023
;   mov_ds_absent          cpl0       #NP(0068)
;   mov_ds_absent          cpl3       #NP(0068)
;   mov_ss_absent          cpl0       #GP(0068)
;   mov_ss_absent          cpl3       #SS(0068)
;   mov_ds_read_only       cpl0       ok 00000073
;   mov_ds_read_only       cpl3       ok 00000073
;   mov_ss_read_only       cpl0       #GP(0070)
;   mov_ss_read_only       cpl3       #GP(0070)
;   mov_ds_execute_only    cpl0       #GP(0078)
;   mov_ds_execute_only    cpl3       #GP(0078)
;   mov_ss_execute_only    cpl0       #GP(0078)
;   mov_ss_execute_only    cpl3       #GP(0078)
;   mov_ds_user_code       cpl0       ok 0000002b
;   mov_ds_user_code       cpl3       ok 0000002b
;   mov_ss_user_code       cpl0       #GP(0028)
;   mov_ss_user_code       cpl3       #GP(0028)
;   mov_ds_code            cpl0       ok 00000008
;   mov_ds_code            cpl3       #GP(0008)
;   mov_ss_code            cpl0       #GP(0008)
;   mov_ss_code            cpl3       #GP(0008)
;   mov_ds_task            cpl0       #GP(0030)
;   mov_ds_task            cpl3       #GP(0030)
;   mov_ss_task            cpl0       #GP(0030)
;   mov_ss_task            cpl3       #GP(0030)
;   mov_ds_beyond          cpl0       #GP(07f8)
;   mov_ds_beyond          cpl3       #GP(07f8)
;   mov_ss_beyond          cpl0       #GP(07f8)
;   mov_ss_beyond          cpl3       #GP(07f8)
;   mov_ds_in_ldt          cpl0       ok 00000007
;   mov_ds_in_ldt          cpl3       ok 00000007
;   mov_ss_in_ldt          cpl0       #GP(0004)
;   mov_ss_in_ldt          cpl3       ok 00000007
;   mov_ds_beyond_ldt      cpl0       #GP(000c)
;   mov_ds_beyond_ldt      cpl3       #GP(000c)
;   mov_ss_beyond_ldt      cpl0       #GP(000c)
;   mov_ss_beyond_ldt      cpl3       #GP(000c)
;   mov_cs                 cpl0       #UD
;   mov_cs                 cpl3       #UD
;   use_null_ds            cpl0       ok 00001111
;   use_null_ds            cpl3       ok 00001111
;   not_canonical          cpl0       #GP(0000)
;   not_canonical          cpl3       #GP(0000)
;   not_canonical_stack    cpl0       #SS(0000)
;   not_canonical_stack    cpl3       #SS(0000)
;   lss_data               cpl0       ok 00000010
;   lss_data               cpl3       #GP(0010)
;   call_far               cpl0       ok 00000008
;   call_far               cpl3       #GP(0008)
;   call_far_user          cpl0       #GP(0028)
;   call_far_user          cpl3       ok 0000002b
;   call_far_data          cpl0       #GP(0010)
;   call_far_data          cpl3       #GP(0010)
;   call_far_null          cpl0       #GP(0000)
;   call_far_null          cpl3       #GP(0000)
;   call_gate              cpl0       ok 00080010
;   call_gate              cpl3       ok 00080000
;   call_gate_returns      cpl0       ok 00100008
;   call_gate_returns      cpl3       ok 0023002b
;   jmp_far                cpl0       ok 00000008
;   jmp_far                cpl3       #GP(0008)
;   jmp_gate               cpl3       #GP(0008)
;   jmp_conforming         cpl0       ok 00000060
;   jmp_conforming         cpl3       ok 00000063
;   jmp_task               cpl0       #GP(0030)
;   jmp_task               cpl3       #GP(0030)
;   retf_same              cpl0       ok 00000008
;   retf_same              cpl3       ok 0000002b
;   retf_outward           cpl0       ok 0000002b
;   retf_inward            cpl3       #GP(0008)
;   iret_same              cpl0       ok 00003000
;   iret_same              cpl3       ok 00000200
;   iret_same              cpl3 iopl3 ok 00003000
;   iret_null_ss           cpl0       ok 00000000
;   iret_null_ss           cpl3       #GP(0000)
;   iret_outward           cpl0       ok 3200002b
;   iret_inward            cpl3       #GP(0008)
;   int_40                 cpl0       ok 00000040
;   int_40                 cpl3       #GP(0202)
;   int_80                 cpl0       ok 00000080
;   int_80                 cpl3       ok 00000080
;   int3                   cpl0       #BP
;   int3                   cpl3       #BP
;   int_3                  cpl0       #BP
;   int_3                  cpl3       #BP
;   int_13                 cpl3       #GP(006a)
;   push_es                cpl0       #UD
;   push_es                cpl3       #UD
;   pop_es                 cpl0       #UD
;   pop_es                 cpl3       #UD
;   push_cs                cpl0       #UD
;   push_cs                cpl3       #UD
;   push_ss                cpl0       #UD
;   push_ss                cpl3       #UD
;   pop_ss                 cpl0       #UD
;   pop_ss                 cpl3       #UD
;   pop_ds                 cpl0       #UD
;   pop_ds                 cpl3       #UD
;   daa                    cpl3       #UD
;   pusha                  cpl3       #UD
;   call_far_direct        cpl0       #UD
;   call_far_direct        cpl3       #UD
;   into                   cpl0       #UD
;   into                   cpl3       #UD
;   aam                    cpl3       #UD
;   jmp_far_direct         cpl0       #UD
;   jmp_far_direct         cpl3       #UD
;   done

.equ STACK, 0x90000             ; of the runner
.equ TEST_STACK, 0x8e000        ; of a test at CPL 0, and of whatever interrupts one at CPL 3
.equ USER_STACK, 0x8c000
.equ BUFFER, 0x80000
.equ PML4, 0x200000
.equ PDPT, 0x201000
.equ DIRECTORY, 0x202000

.equ CODE, 0x08
.equ DATA, 0x10
.equ USER_CODE32, 0x1b          ; in the order that SYSCALL, SYSRET, SYSENTER and SYSEXIT ask for
.equ USER_DATA, 0x23
.equ USER_CODE, 0x2b
.equ TASK, 0x30                 ; two entries
.equ LOCAL, 0x40                ; two entries
.equ GATE, 0x53                 ; call gate of DPL 3, two entries
.equ CONFORMING, 0x60
.equ ABSENT, 0x6b
.equ READ_ONLY, 0x73
.equ EXECUTE_ONLY, 0x7b
.equ SMALL, 0x83                ; 4 KiB, byte-granular
.equ BEYOND, 0x7fb              ; behind the table's end

; where a test runs
.equ KERNEL, 1                  ; CPL 0, IOPL 0
.equ USER, 2                    ; CPL 3, IOPL 0
.equ USER_IO, 4                 ; CPL 3, IOPL 3
.equ BOTH, 3
.equ ALL, 7
; how it is set up
.equ NO_IF, 1                   ; starts with IF clear
.equ TIMER, 2                   ; IRQ 0 is unmasked
.equ NO_TSC, 4                  ; CR4.TSD is set
.equ HAS_RDTSCP, 8              ; #UD where CPUID does not announce it
.equ HAS_SMAP, 16
.equ NO_SCE, 32                 ; EFER.SCE is clear

.macro begin name, who, setup
    .long \name_end
    .byte \who, \setup
    .asciz "\name"
\name_code:
.endm
.macro done name
    int 0x81
\name_end:
.endm
; a test of one instruction that leaves EAX = 1
.macro simple name, who, setup, instruction
    begin \name, \who, \setup
    \instruction
    mov eax, 1
    done \name
.endm
; EAX: the flags of `mask`
.macro flags mask
    pushfq
    pop rax
    and eax, \mask
.endm
; AL: ZF
.macro zero_flag
    mov eax, 0
    setz al
.endm

_start:
    cli
    cld
    mov rsp, STACK
    mov edi, PML4               ; 1 GiB as it is, for everybody
    xor eax, eax
    mov ecx, 1024
    rep stosq
    mov qword ptr [PML4], PDPT + 7
    mov qword ptr [PDPT], DIRECTORY + 7
    mov edi, DIRECTORY
    mov eax, 0x87
.directory:
    mov qword ptr [rdi], rax
    add rdi, 8
    add eax, 0x200000
    cmp eax, 0x40000000
    jb .directory
    mov eax, PML4
    mov cr3, rax
    mov eax, 0x80000011         ; PG, ET, PE
    mov cr0, rax
    mov rax, cr4
    mov dword ptr [first_cr4], eax
    mov ecx, 0xc0000080
    rdmsr
    mov dword ptr [first_efer], eax
    lgdt [gdtr]
    push CODE
    lea rax, [.reloaded]
    push rax
    retfq
.reloaded:
    call load_segments
    mov eax, DATA
    mov ss, eax

    lea rdi, [idt]              ; all gates to `unexpected`, then the known ones
    mov ecx, 256
    mov eax, unexpected
    call write_gates
    mov ebx, 0
.exceptions:
    mov eax, dword ptr [rbx*4 + stubs]
    mov edi, ebx
    shl edi, 4
    add edi, idt
    mov ecx, 1
    call write_gates
    inc ebx
    cmp ebx, 21
    jne .exceptions
    lea rbx, [others]
.others:
    mov edi, dword ptr [rbx]
    mov eax, dword ptr [rbx+4]
    mov ecx, 1
    shl edi, 4
    add edi, idt
    call write_gates
    add rbx, 8
    cmp rbx, others_end
    jne .others
    or byte ptr [idt + 3 * 16 + 5], 0x60    ; DPL 3: INT3, 80h, 81h
    or byte ptr [idt + 0x80 * 16 + 5], 0x60
    or byte ptr [idt + 0x81 * 16 + 5], 0x60
    mov eax, task
    mov word ptr [gdt + TASK + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK + 4], al
    mov eax, local_table
    mov word ptr [gdt + LOCAL + 2], ax
    shr eax, 16
    mov byte ptr [gdt + LOCAL + 4], al
    mov eax, gate_target
    mov word ptr [gdt + GATE - 3], ax
    shr eax, 16
    mov word ptr [gdt + GATE - 3 + 6], ax
    call start_controllers
    mov ecx, 0x174              ; IA32_SYSENTER_CS, _ESP, _EIP
    mov eax, CODE
    xor edx, edx
    wrmsr
    inc ecx
    mov eax, TEST_STACK
    wrmsr
    inc ecx
    mov eax, sysenter_target
    wrmsr
    mov ecx, 0xc0000081         ; STAR, LSTAR, SFMASK
    xor eax, eax
    mov edx, CODE | (USER_CODE32 << 16)
    wrmsr
    inc ecx
    mov eax, syscall_target
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x200
    wrmsr

    lea rbp, [tests]
next_test:
    cmp rbp, tests_end
    je all_done
    mov ebx, 1
.place:
    test byte ptr [rbp+4], bl
    jz .not_here
    call run
    call report
.not_here:
    shl ebx, 1
    cmp ebx, 8
    jne .place
    mov ebp, dword ptr [rbp]
    jmp next_test
all_done:
    lea rsi, [text_done]
    call puts
    jmp finish

; ---- the runner ---------------------------------------------------------------------------------------------

run:                            ; RBP: test, EBX: place; leaves [vector], [error], [result]
    push rbx
    push rbp
    mov qword ptr [saved_rsp], rsp
    lgdt [gdtr]
    lidt [idtr]
    and byte ptr [gdt + TASK + 5], 0xfd     ; not busy
    mov eax, TASK
    ltr ax
    mov eax, LOCAL
    lldt ax
    movzx eax, byte ptr [rbp+5]
    and eax, NO_TSC
    or eax, dword ptr [first_cr4]
    mov cr4, rax
    mov eax, dword ptr [first_efer]
    or eax, 1
    test byte ptr [rbp+5], NO_SCE
    jz .with_syscall
    and eax, 0xfffffffe
.with_syscall:
    mov ecx, 0xc0000080
    xor edx, edx
    wrmsr
    test byte ptr [rbp+5], TIMER
    jz .no_timer
    mov al, 0xfe
    out 0x21, al
.no_timer:
    mov edx, 0x202              ; flags
    test byte ptr [rbp+5], NO_IF
    jz .with_if
    and edx, 0xfffffdff
.with_if:
    cmp ebx, USER_IO
    jne .no_iopl
    or edx, 0x3000
.no_iopl:
    lea rsi, [rbp+6]            ; the code lies behind the name
.name:
    lodsb
    test al, al
    jnz .name
    cmp ebx, KERNEL
    je .kernel
    mov eax, USER_DATA
    push rax
    push USER_STACK
    push rdx
    push USER_CODE
    jmp .segments
.kernel:
    mov eax, DATA
    push rax
    push TEST_STACK
    push rdx
    push CODE
.segments:
    push rsi
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    xor eax, eax
    xor ecx, ecx
    xor edx, edx
    xor ebx, ebx
    xor ebp, ebp
    xor esi, esi
    xor edi, edi
    iretq

.macro stub vector
stub_\vector:
    push 0                      ; in place of an error code
    push \vector
    jmp came_back
.endm
.macro error_stub vector
stub_\vector:
    push \vector
    jmp came_back
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
stub_129:
    push 0
    push 0x81
came_back:                      ; on the stack: vector, error code
    mov dword ptr [result], eax
    pop qword ptr [vector]
    pop qword ptr [error]
    mov eax, DATA
    mov ss, eax
    mov rsp, qword ptr [saved_rsp]
    cld
    call load_segments
    mov al, 0xff
    out 0x21, al
    pop rbp
    pop rbx
    ret

load_segments:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    ret

unexpected:
    lea rsi, [text_unexpected]
    call puts
    mov al, 1
    out DEBUG_EXIT, al
    jmp finish.stop

report:                         ; RBP: test, EBX: place
    push rbx
    push rbp
    lea rsi, [rbp+6]
    call puts
    mov rcx, rsi
    sub rcx, rbp
.pad:
    mov al, ' '
    call putc
    inc ecx
    cmp ecx, 30
    jb .pad
    lea rsi, [text_kernel]
    cmp ebx, KERNEL
    je .where
    lea rsi, [text_user]
    cmp ebx, USER
    je .where
    lea rsi, [text_user_io]
.where:
    call puts
    call as_announced
    jc .raw
    lea rsi, [text_cpuid]
    call puts
    jmp .end
.raw:
    mov eax, dword ptr [vector]
    cmp eax, 0x81
    je .ok
    lea esi, [rax+rax*2]
    add esi, exception_names
    mov al, '#'
    call putc
    lodsb
    call putc
    lodsb
    call putc
    mov ecx, dword ptr [vector]
    mov eax, 0x27d00            ; vectors 8, 10-14, 17 push an error code
    bt eax, ecx
    jnc .end
    mov al, '('
    call putc
    mov eax, dword ptr [error]
    mov ecx, 4
    call puthexn
    mov al, ')'
    call putc
    jmp .end
.ok:
    lea rsi, [text_ok]
    call puts
    mov eax, dword ptr [result]
    call puthex
.end:
    mov al, 10
    call putc
    pop rbp
    pop rbx
    ret

as_announced:                   ; RBP: test; carry clear: what happened is what CPUID announces for its feature
    push rbx
    test byte ptr [rbp+5], HAS_RDTSCP | HAS_SMAP
    stc
    jz .return
    test byte ptr [rbp+5], HAS_SMAP
    jnz .smap
    mov eax, 0x80000001
    cpuid
    bt edx, 27                  ; RDTSCP
    jmp .compare
.smap:
    mov eax, 7
    xor ecx, ecx
    cpuid
    bt ebx, 20                  ; SMAP
.compare:
    mov eax, 6                  ; #UD without the feature, `done` with it
    mov ecx, 0x81
    cmovc eax, ecx
    cmp dword ptr [vector], eax
    clc
    je .return
    stc
.return:
    pop rbx
    ret

write_gates:                    ; RDI: first gate, ECX: how many, EAX: handler; interrupt gates of DPL 0
    mov word ptr [rdi], ax
    mov word ptr [rdi+2], CODE
    mov word ptr [rdi+4], 0x8e00
    rol eax, 16
    mov word ptr [rdi+6], ax
    rol eax, 16
    mov qword ptr [rdi+8], 0
    add rdi, 16
    dec ecx
    jnz write_gates
    ret

start_controllers:
    mov al, 0x11                ; both 8259s to vectors 20h and 28h
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
    mov al, 0x34                ; 8254 counter 0, mode 2, 1 kHz
    out 0x43, al
    mov al, 1193 & 255
    out 0x40, al
    mov al, 1193 >> 8
    out 0x40, al
    ret

irq0:
    push rax
    mov al, 0x20
    out 0x20, al
    pop rax
    iretq

interrupt_40:
    mov eax, 0x40
    iretq

interrupt_80:
    mov eax, 0x80
    iretq

sysenter_target:                ; EAX: CS, IF
syscall_target:
    mov rsp, TEST_STACK
    flags 0x200
    mov ecx, cs
    or eax, ecx
    int 0x81

gate_target:                    ; EAX: CS and SS in here
    mov eax, cs
    shl eax, 16
    mov ecx, ss
    mov ax, cx
    retfq

conforming_target:
    mov eax, cs
    int 0x81

; ---- the tests ----------------------------------------------------------------------------------------------

tests:
; flags
    begin cli, ALL, 0
    cli
    flags 0x200
    done cli
    begin sti, ALL, NO_IF
    sti
    flags 0x200
    done sti
    begin pushf, ALL, 0
    flags 0x3200
    done pushf
    begin pushfw, ALL, 0
    pushf
    pop ax
    and eax, 0x3200
    done pushfw
    begin popf, ALL, 0          ; tries to clear IF and raise IOPL
    push 0x3002
    popfq
    flags 0x3200
    done popf
    begin popfw, ALL, 0
    mov ax, 0x3002
    push ax
    popf
    flags 0x3200
    done popfw
    begin popf_set_if, ALL, NO_IF
    push 0x202
    popfq
    flags 0x3200
    done popf_set_if

; privileged
    simple hlt, ALL, TIMER, hlt
    simple out_80, ALL, 0, {out 0x80, al}           ; the I/O permission map allows port 80h alone
    simple in_80, ALL, 0, {in al, 0x80}
    simple in_87, ALL, 0, {in al, 0x87}
    simple in_dword_80, ALL, 0, {in eax, 0x80}
    simple out_beyond_map, USER, 0, {out 0xed, al}
    begin ins, ALL, 0
    mov edi, BUFFER
    mov edx, 0x87
    insb
    mov eax, edi
    done ins
    begin rep_outs, ALL, 0
    lea rsi, [zero]
    mov edx, 0xed
    mov ecx, 3
    rep outsb
    lea rax, [zero]
    sub rsi, rax
    mov eax, esi
    done rep_outs
    simple lgdt, BOTH, 0, {lgdt [gdtr]}
    simple lidt, BOTH, 0, {lidt [idtr]}
    begin lldt, BOTH, 0
    mov eax, LOCAL
    lldt ax
    sldt eax
    done lldt
    begin lldt_null, BOTH, 0
    xor eax, eax
    lldt ax
    sldt eax
    done lldt_null
    begin lldt_data, BOTH, 0
    mov eax, DATA
    lldt ax
    done lldt_data
    begin ltr, BOTH, 0
    and byte ptr [gdt + TASK + 5], 0xfd
    mov eax, TASK
    ltr ax
    movzx eax, byte ptr [gdt + TASK + 5]    ; busy now
    done ltr
    begin ltr_busy, BOTH, 0
    mov eax, TASK
    ltr ax
    done ltr_busy
    begin lmsw_keeps_pe, BOTH, 0
    xor eax, eax
    lmsw ax
    smsw eax
    and eax, 9
    done lmsw_keeps_pe
    begin lmsw, BOTH, 0         ; sets TS, which the next test clears
    mov eax, 9
    lmsw ax
    smsw eax
    and eax, 9
    done lmsw
    begin clts, BOTH, 0
    clts
    smsw eax
    and eax, 9
    done clts
    simple invlpg, BOTH, 0, {invlpg [zero]}
    simple invd, BOTH, 0, invd
    simple wbinvd, BOTH, 0, wbinvd
    begin mov_from_cr0, BOTH, 0
    mov rax, cr0
    and eax, 0x80000001
    done mov_from_cr0
    begin mov_to_cr0, BOTH, 0
    mov eax, 0x80000011
    mov cr0, rax
    done mov_to_cr0
    begin mov_to_cr0_high, BOTH, 0          ; bits 63 to 32 are reserved
    mov rax, 0x180000011
    mov cr0, rax
    done mov_to_cr0_high
    begin mov_to_cr2, BOTH, 0
    mov rax, 0x1234567800000000
    mov cr2, rax
    xor eax, eax
    mov rax, cr2
    shr rax, 32
    done mov_to_cr2
    begin mov_from_cr3, BOTH, 0
    mov rax, cr3
    done mov_from_cr3
    begin mov_to_cr3, BOTH, 0
    mov eax, PML4
    mov cr3, rax
    done mov_to_cr3
    begin mov_from_cr4, BOTH, 0
    mov rax, cr4
    and eax, 0x24               ; PAE, TSD
    done mov_from_cr4
    begin mov_to_cr4, BOTH, 0
    mov eax, 0x24
    mov cr4, rax
    xor eax, eax
    mov rax, cr4
    and eax, 0x24
    done mov_to_cr4
    begin mov_to_cr8, BOTH, 0
    mov eax, 5
    mov cr8, rax
    xor eax, eax
    mov rax, cr8
    xor ecx, ecx
    mov cr8, rcx
    done mov_to_cr8
    simple mov_to_cr1, KERNEL, 0, {.byte 0x0f, 0x22, 0xc8}  ; mov cr1, rax: no such register
    begin mov_to_dr0, BOTH, 0
    mov rax, 0x123400004321
    mov dr0, rax
    xor eax, eax
    mov rax, dr0
    shr rax, 16
    done mov_to_dr0
    begin mov_from_dr7, BOTH, 0
    mov rax, dr7
    done mov_from_dr7
    begin mov_to_dr7, BOTH, 0
    mov eax, 0x400
    mov dr7, rax
    xor eax, eax
    mov rax, dr7
    done mov_to_dr7
    begin rdmsr, BOTH, 0
    mov ecx, 0xc0000081
    rdmsr
    mov eax, edx
    done rdmsr
    begin wrmsr, BOTH, 0        ; KERNEL_GS_BASE
    mov ecx, 0xc0000102
    mov edx, 0xffff8000
    mov eax, 0x1234
    wrmsr
    xor eax, eax
    xor edx, edx
    rdmsr
    add eax, edx
    done wrmsr
    begin wrmsr_not_canonical, BOTH, 0
    mov ecx, 0xc0000102
    mov edx, 0x00008000
    wrmsr
    mov eax, 1
    done wrmsr_not_canonical
    begin rdmsr_reserved, BOTH, 0
    mov ecx, 0x40000fff         ; in the range that no processor uses
    rdmsr
    done rdmsr_reserved
    simple rdpmc, USER, 0, rdpmc
    simple rdtsc, BOTH, 0, rdtsc
    simple rdtsc_tsd, BOTH, NO_TSC, rdtsc
    simple rdtscp, BOTH, HAS_RDTSCP, rdtscp
    simple cpuid, BOTH, 0, cpuid
    simple sysenter, BOTH, 0, sysenter
    begin sysexit, BOTH, 0      ; back to 32-bit code
    mov ecx, USER_STACK
    mov edx, sysexit_lands
    .byte 0x0f, 0x35
.mode 32
sysexit_lands:
    mov eax, ss
    shl eax, 16
    mov ax, cs
.mode 64
    done sysexit
    begin sysexitq, BOTH, 0     ; back to 64-bit code
    mov ecx, USER_STACK
    mov edx, sysexitq_lands
    sysexitq
sysexitq_lands:
    mov eax, ss
    shl eax, 16
    mov ax, cs
    done sysexitq
    simple syscall, BOTH, 0, syscall
    simple syscall_disabled, BOTH, NO_SCE, syscall
    begin sysretq, BOTH, 0
    lea rcx, [sysretq_lands]
    mov r11d, 0x202
    sysretq
sysretq_lands:                  ; SS, IF in bit 16, CS
    flags 0x200
    shl eax, 7
    mov ecx, cs
    mov ax, cx
    mov ecx, ss
    shl ecx, 24
    or eax, ecx
    done sysretq
    begin sysret, BOTH, 0       ; back to 32-bit code
    lea rcx, [sysret_lands]
    mov r11d, 0x202
    sysret
.mode 32
sysret_lands:
    mov eax, ss
    shl eax, 16
    mov ax, cs
.mode 64
    done sysret
    simple sysret_disabled, BOTH, NO_SCE, sysretq
    begin swapgs, BOTH, 0
    swapgs
    mov ecx, 0xc0000101         ; both bases set, swapped, and one word read through GS
    mov eax, word_first
    xor edx, edx
    wrmsr
    inc ecx
    mov eax, word_second
    wrmsr
    swapgs
    mov eax, dword ptr gs:[0]
    swapgs
    shl eax, 16
    mov ax, word ptr gs:[0]
    done swapgs
    simple stac, KERNEL, HAS_SMAP, stac
    simple clac, KERNEL, HAS_SMAP, clac
    simple stac_user, USER, 0, stac
    simple clac_user, USER, 0, clac
    simple xgetbv, BOTH, 0, xgetbv
    simple xsetbv, BOTH, 0, xsetbv
    simple rdfsbase, BOTH, 0, {rdfsbase rax}
    simple rdgsbase, BOTH, 0, {rdgsbase rax}
    simple wrfsbase, BOTH, 0, {wrfsbase rax}
    simple wrgsbase, BOTH, 0, {wrgsbase rax}
    simple rdpkru, BOTH, 0, rdpkru
    simple rsm, BOTH, 0, rsm
    simple ud2, BOTH, 0, ud2

; sensitive but unprivileged: descriptor tables
    begin sgdt, BOTH, 0         ; the limit, and 0 for the right base
    mov edi, BUFFER
    sgdt [rdi]
    lea rcx, [gdt]
    mov rax, qword ptr [rdi+2]
    sub rax, rcx
    shl eax, 16
    mov ax, word ptr [rdi]
    done sgdt
    begin sidt, BOTH, 0
    mov edi, BUFFER
    sidt [rdi]
    lea rcx, [idt]
    mov rax, qword ptr [rdi+2]
    sub rax, rcx
    shl eax, 16
    mov ax, word ptr [rdi]
    done sidt
    begin sldt, BOTH, 0
    sldt eax
    done sldt
    begin str, BOTH, 0
    str eax
    done str
    begin smsw, BOTH, 0
    smsw eax
    and eax, 9
    done smsw

.macro lar_test name, selector
    begin \name, BOTH, 0
    mov ecx, \selector
    xor ebx, ebx
    lar ebx, ecx
    zero_flag
    and ebx, 0x00f0ff00         ; bits 16 to 19 are undefined
    or eax, ebx
    done \name
.endm
    lar_test lar_code, CODE
    lar_test lar_code_rpl3, CODE + 3
    lar_test lar_user_code, USER_CODE
    lar_test lar_user_code32, USER_CODE32
    lar_test lar_user_data, USER_DATA
    lar_test lar_conforming, CONFORMING
    lar_test lar_task, TASK
    lar_test lar_local, LOCAL
    lar_test lar_gate, GATE
    lar_test lar_absent, ABSENT
    lar_test lar_null, 0
    lar_test lar_beyond, BEYOND

.macro lsl_test name, selector
    begin \name, BOTH, 0
    mov ecx, \selector
    xor ebx, ebx
    lsl ebx, ecx
    zero_flag
    and ebx, 0xfffffff0
    or eax, ebx
    done \name
.endm
    lsl_test lsl_data, DATA
    lsl_test lsl_user_code, USER_CODE
    lsl_test lsl_small, SMALL
    lsl_test lsl_task, TASK
    lsl_test lsl_gate, GATE
    lsl_test lsl_beyond, BEYOND

.macro verify_test name, instruction, selector
    begin \name, BOTH, 0
    mov ecx, \selector
    \instruction cx
    zero_flag
    done \name
.endm
    verify_test verr_code, verr, CODE
    verify_test verr_user_code, verr, USER_CODE
    verify_test verr_conforming, verr, CONFORMING
    verify_test verr_execute_only, verr, EXECUTE_ONLY
    verify_test verr_task, verr, TASK
    verify_test verr_null, verr, 0
    verify_test verw_data, verw, DATA
    verify_test verw_user_data, verw, USER_DATA
    verify_test verw_read_only, verw, READ_ONLY
    verify_test verw_user_code, verw, USER_CODE

; segment registers
.macro store_test name, segment
    begin mov_from_\name, BOTH, 0
    mov eax, \segment
    done mov_from_\name
.endm
    store_test cs, cs
    store_test ss, ss
    store_test ds, ds
    store_test gs, gs
    begin push_fs, BOTH, 0
    push fs
    pop rax
    done push_fs
    begin pop_gs, BOTH, 0
    push USER_DATA
    pop gs
    mov eax, gs
    done pop_gs
.macro load_test name, selector
    begin mov_ds_\name, BOTH, 0
    mov eax, \selector
    mov ds, eax
    mov eax, ds
    done mov_ds_\name
    begin mov_ss_\name, BOTH, 0
    mov eax, \selector
    mov ss, eax
    mov eax, ss
    done mov_ss_\name
.endm
    load_test null, 0
    load_test null_rpl3, 3
    load_test data, DATA
    load_test user_data, USER_DATA
    load_test absent, ABSENT
    load_test read_only, READ_ONLY
    load_test execute_only, EXECUTE_ONLY
    load_test user_code, USER_CODE
    load_test code, CODE
    load_test task, TASK
    load_test beyond, BEYOND
    load_test in_ldt, 0x07
    load_test beyond_ldt, 0x0f
    simple mov_cs, BOTH, 0, {.byte 0x8e, 0xc8}      ; mov cs, eax
    begin use_null_ds, BOTH, 0  ; no segment, no check
    xor eax, eax
    mov ds, eax
    mov eax, dword ptr [word_first]
    done use_null_ds
    begin not_canonical, BOTH, 0
    mov rbx, 0x8000000000000000
    mov eax, dword ptr [rbx]
    done not_canonical
    begin not_canonical_stack, BOTH, 0
    mov rbp, 0x8000000000000000
    mov eax, dword ptr [rbp]
    done not_canonical_stack
    begin lss_data, BOTH, 0
    lea rbx, [pointer_data]
    lss ecx, [rbx]
    mov eax, ss
    done lss_data

; far transfers
    begin call_far, BOTH, 0
    lea rbx, [pointer_code]
    lcall [rbx]
    mov eax, cs
    done call_far
    begin call_far_user, BOTH, 0
    lea rbx, [pointer_user_code]
    lcall [rbx]
    mov eax, cs
    done call_far_user
    begin call_far_data, BOTH, 0
    lea rbx, [pointer_data]
    lcall [rbx]
    done call_far_data
    begin call_far_null, BOTH, 0
    lea rbx, [pointer_null]
    lcall [rbx]
    done call_far_null
    begin call_gate, BOTH, 0
    lea rbx, [pointer_gate]
    lcall [rbx]
    done call_gate
    begin call_gate_returns, BOTH, 0
    lea rbx, [pointer_gate]
    lcall [rbx]
    mov eax, ss
    shl eax, 16
    mov ecx, cs
    mov ax, cx
    done call_gate_returns
    begin jmp_far, BOTH, 0
    lea rbx, [pointer_jump]
    ljmp [rbx]
jmp_far_lands:
    mov eax, cs
    done jmp_far
    begin jmp_gate, USER, 0     ; a jump must not raise the privilege
    lea rbx, [pointer_gate]
    ljmp [rbx]
    done jmp_gate
    begin jmp_conforming, BOTH, 0
    lea rbx, [pointer_conforming]
    ljmp [rbx]
    done jmp_conforming
    begin jmp_task, BOTH, 0     ; there are no task switches in long mode
    lea rbx, [pointer_task]
    ljmp [rbx]
    done jmp_task
    begin retf_same, BOTH, 0
    mov eax, cs
    push rax
    lea rax, [retf_same_lands]
    push rax
    retfq
retf_same_lands:
    mov eax, cs
    done retf_same
    begin retf_outward, KERNEL, 0
    push USER_DATA
    push USER_STACK
    push USER_CODE
    lea rax, [retf_outward_lands]
    push rax
    retfq
retf_outward_lands:             ; DATA in DS, too privileged for CPL 3, is gone
    mov eax, ds
    shl eax, 16
    mov ecx, cs
    mov ax, cx
    done retf_outward
    begin retf_inward, USER, 0
    push CODE
    lea rax, [retf_outward_lands]
    push rax
    retfq
    done retf_inward
    begin iret_same, ALL, 0     ; tries to clear IF and raise IOPL
    mov eax, ss
    push rax
    push TEST_STACK
    push 0x3002
    mov eax, cs
    push rax
    lea rax, [iret_same_lands]
    push rax
    iretq
iret_same_lands:
    flags 0x3200
    done iret_same
    begin iret_null_ss, BOTH, 0 ; SS may be null in 64-bit mode, but not at CPL 3
    push 0
    push TEST_STACK
    push 0x202
    mov eax, cs
    push rax
    lea rax, [iret_null_ss_lands]
    push rax
    iretq
iret_null_ss_lands:
    mov eax, ss
    done iret_null_ss
    begin iret_outward, KERNEL, 0
    push USER_DATA
    push USER_STACK
    push 0x3202
    push USER_CODE
    lea rax, [iret_outward_lands]
    push rax
    iretq
iret_outward_lands:
    flags 0x3200
    shl eax, 16
    mov ecx, cs
    mov ax, cx
    done iret_outward
    begin iret_inward, USER, 0
    push DATA
    push TEST_STACK
    push 0x202
    push CODE
    lea rax, [iret_outward_lands]
    push rax
    iretq
    done iret_inward

; software interrupts
    begin int_40, BOTH, 0
    int 0x40
    done int_40
    begin int_80, BOTH, 0
    int 0x80
    done int_80
    simple int3, BOTH, 0, int3
    simple int_3, BOTH, 0, {int 3}
    simple int_13, USER, 0, {int 13}

; opcodes that 64-bit mode took away (SDM vol. 2, 2.2.1 and the notes of each instruction)
    simple push_es, BOTH, 0, {.byte 0x06}
    simple pop_es, BOTH, 0, {.byte 0x07}
    simple push_cs, BOTH, 0, {.byte 0x0e}
    simple push_ss, BOTH, 0, {.byte 0x16}
    simple pop_ss, BOTH, 0, {.byte 0x17}
    simple pop_ds, BOTH, 0, {.byte 0x1f}
    simple daa, USER, 0, {.byte 0x27}
    simple pusha, USER, 0, {.byte 0x60}
    simple call_far_direct, BOTH, 0, {.byte 0x9a, 0, 0, 0, 0, 8, 0}
    simple into, BOTH, 0, {.byte 0xce}
    simple aam, USER, 0, {.byte 0xd4, 10}
    simple jmp_far_direct, BOTH, 0, {.byte 0xea, 0, 0, 0, 0, 8, 0}
tests_end:

far_returns:                    ; a far call of 32-bit operand size pushed two doublewords
    retf

; ---- data ---------------------------------------------------------------------------------------------------

.align 8, 0
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    ; CODE
    .quad 0x00cf93000000ffff    ; DATA
    .quad 0x00cffb000000ffff    ; USER_CODE32
    .quad 0x00cff3000000ffff    ; USER_DATA
    .quad 0x00affb000000ffff    ; USER_CODE
    .quad 0x0000890000000000 + task_end - task - 1, 0
    .quad 0x0000820000000000 + local_end - local_table - 1, 0
    .quad 0x0000ec0000080000, 0 ; GATE
    .quad 0x00af9f000000ffff    ; CONFORMING
    .quad 0x00cf73000000ffff    ; ABSENT
    .quad 0x00cff1000000ffff    ; READ_ONLY
    .quad 0x00cff9000000ffff    ; EXECUTE_ONLY
    .quad 0x0040f30000000fff    ; SMALL
gdt_end:
local_table:
    .quad 0x00cff3000000ffff    ; 07: data of DPL 3
local_end:
task:                           ; SDM vol. 3, 8.7: RSP0 at 4, I/O map base at 102
    .long 0
    .quad TEST_STACK
    .space 90
    .word 104
    .space 16, 0xff             ; ports 0 to 7fh
    .byte 0xfe                  ; 80h is allowed
    .byte 0xff
task_end:
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt
idtr:
    .word 256 * 16 - 1
    .quad idt
.align 4, 0
stubs:
    .long stub_0, stub_1, stub_2, stub_3, stub_4, stub_5, stub_6, stub_7, stub_8, stub_9, stub_10, stub_11
    .long stub_12, stub_13, stub_14, stub_15, stub_16, stub_17, stub_18, stub_19, stub_20
others:
    .long 0x20, irq0, 0x40, interrupt_40, 0x80, interrupt_80, 0x81, stub_129
others_end:
zero:
    .long 0
word_first:
    .long 0x1111
word_second:
    .long 0x2222
pointer_code:
    .long far_returns
    .word CODE
pointer_user_code:
    .long far_returns
    .word USER_CODE
pointer_data:
    .long 0
    .word DATA
pointer_null:
    .long far_returns
    .word 0
pointer_gate:
    .long 0
    .word GATE
pointer_jump:
    .long jmp_far_lands
    .word CODE
pointer_conforming:
    .long conforming_target
    .word CONFORMING
pointer_task:
    .long 0
    .word TASK
first_cr4:
    .long 0
first_efer:
    .long 0
result:
    .long 0
.align 8, 0
saved_rsp:
    .quad 0
vector:
    .quad 0
error:
    .quad 0
exception_names:
    .ascii "DE DB NMIBP OF BR UD NM DF 09 TS NP SS GP PF 15 MF AC MC XM VE "
text_kernel:
    .asciz "cpl0       "
text_user:
    .asciz "cpl3       "
text_user_io:
    .asciz "cpl3 iopl3 "
text_ok:
    .asciz "ok "
text_cpuid:
    .asciz "as cpuid says"
text_unexpected:
    .asciz "an interrupt nobody asked for\n"
text_done:
    .asciz "done\n"

.include "console64.inc"

.align 16, 0
idt:
    .space 256 * 16
