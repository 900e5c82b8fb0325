; guest: sensitive
; summary: runs every sensitive instruction at every privilege level in 32-bit protected mode and prints what it saw
; format: flat
; mode: 32
; org: 0x100000
; tags: system
; note: a line is the test, where it ran, and the exception, or "ok" and EAX
; note: "as cpuid says": #UD or ok, whichever CPUID announces for the feature
; note: SDM vol. 2 RDMSR and vol. 3, 5.4.1: #GP for an MSR that does not exist and for the null DS; QEMU lets both pass
; qemu-line: 98 rdmsr_reserved         cpl0       ok 00000000
; qemu-line: 308 use_null_ds            cpl0       ok 00000000
; qemu-line: 309 use_null_ds            cpl3       ok 00000000
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
;   outs                   cpl0       ok 00000001
;   outs                   cpl3       #GP(0000)
;   outs                   cpl3 iopl3 ok 00000001
;   rep_outs               cpl0       ok 00000003
;   rep_outs               cpl3       #GP(0000)
;   rep_outs               cpl3 iopl3 ok 00000003
;   lgdt                   cpl0       ok 00000001
;   lgdt                   cpl3       #GP(0000)
;   lidt                   cpl0       ok 00000001
;   lidt                   cpl3       #GP(0000)
;   lldt                   cpl0       ok 00000030
;   lldt                   cpl3       #GP(0000)
;   lldt_null              cpl0       ok 00000000
;   lldt_null              cpl3       #GP(0000)
;   lldt_data              cpl0       #GP(0010)
;   lldt_data              cpl3       #GP(0000)
;   ltr                    cpl0       ok 0000008b
;   ltr                    cpl3       #GP(0000)
;   ltr_busy               cpl0       #GP(0028)
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
;   mov_from_cr0           cpl0       ok 00000001
;   mov_from_cr0           cpl3       #GP(0000)
;   mov_to_cr0             cpl0       ok 00000011
;   mov_to_cr0             cpl3       #GP(0000)
;   mov_to_cr2             cpl0       ok 12345678
;   mov_to_cr2             cpl3       #GP(0000)
;   mov_from_cr3           cpl0       ok 00000000
;   mov_from_cr3           cpl3       #GP(0000)
;   mov_to_cr3             cpl0       ok 00005000
;   mov_to_cr3             cpl3       #GP(0000)
;   mov_from_cr4           cpl0       ok 00000000
;   mov_from_cr4           cpl3       #GP(0000)
;   mov_to_cr4             cpl0       ok 00000004
;   mov_to_cr4             cpl3       #GP(0000)
;   mov_to_cr1             cpl0       #UD
;   mov_to_dr0             cpl0       ok 00004321
;   mov_to_dr0             cpl3       #GP(0000)
;   mov_from_dr7           cpl0       ok 00000400
;   mov_from_dr7           cpl3       #GP(0000)
;   mov_to_dr7             cpl0       ok 00000400
;   mov_to_dr7             cpl3       #GP(0000)
;   rdmsr                  cpl0       ok 00000008
;   rdmsr                  cpl3       #GP(0000)
;   wrmsr                  cpl0       ok 00000008
;   wrmsr                  cpl3       #GP(0000)
;   rdmsr_reserved         cpl0       #GP(0000)
;   rdmsr_reserved         cpl3       #GP(0000)
;   rdpmc                  cpl3       #GP(0000)
;   rdtsc                  cpl0       ok 00000001
;   rdtsc                  cpl3       ok 00000001
;   rdtsc_tsd              cpl0       ok 00000001
;   rdtsc_tsd              cpl3       #GP(0000)
;   rdtscp                 cpl0       as cpuid says
;   rdtscp                 cpl3       as cpuid says
;   rdtscp_tsd             cpl0       as cpuid says
;   cpuid                  cpl0       ok 00000001
;   cpuid                  cpl3       ok 00000001
;   sysenter               cpl0       ok 00000008
;   sysenter               cpl3       ok 00000008
;   sysexit                cpl0       ok 0023001b
;   sysexit                cpl3       #GP(0000)
;   syscall                cpl0       #UD
;   syscall                cpl3       #UD
;   sysret                 cpl0       #UD
;   sysret                 cpl3       #UD
;   swapgs                 cpl0       #UD
;   swapgs                 cpl3       #UD
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
;   rdpkru                 cpl0       #UD
;   rdpkru                 cpl3       #UD
;   rsm                    cpl0       #UD
;   rsm                    cpl3       #UD
;   ud2                    cpl0       #UD
;   ud2                    cpl3       #UD
;   sgdt                   cpl0       ok 0000006f
;   sgdt                   cpl3       ok 0000006f
;   sidt                   cpl0       ok 000007ff
;   sidt                   cpl3       ok 000007ff
;   sldt                   cpl0       ok 00000030
;   sldt                   cpl3       ok 00000030
;   str                    cpl0       ok 00000028
;   str                    cpl3       ok 00000028
;   smsw                   cpl0       ok 00000001
;   smsw                   cpl3       ok 00000001
;   lar_code               cpl0       ok 00c09b01
;   lar_code               cpl3       ok 00000000
;   lar_code_rpl3          cpl0       ok 00000000
;   lar_code_rpl3          cpl3       ok 00000000
;   lar_user_code          cpl0       ok 00c0fb01
;   lar_user_code          cpl3       ok 00c0fb01
;   lar_user_data          cpl0       ok 00c0f301
;   lar_user_data          cpl3       ok 00c0f301
;   lar_conforming         cpl0       ok 00c09f01
;   lar_conforming         cpl3       ok 00c09f01
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
;   lar_in_ldt             cpl0       ok 00c0f301
;   lar_in_ldt             cpl3       ok 00c0f301
;   lsl_data               cpl0       ok fffffff1
;   lsl_data               cpl3       ok 00000000
;   lsl_user_data          cpl0       ok fffffff1
;   lsl_user_data          cpl3       ok fffffff1
;   lsl_small              cpl0       ok 00000ff1
;   lsl_small              cpl3       ok 00000ff1
;   lsl_task               cpl0       ok 00000071
;   lsl_task               cpl3       ok 00000000
;   lsl_gate               cpl0       ok 00000000
;   lsl_gate               cpl3       ok 00000000
;   lsl_null               cpl0       ok 00000000
;   lsl_null               cpl3       ok 00000000
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
;   verr_read_only         cpl0       ok 00000001
;   verr_read_only         cpl3       ok 00000001
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
;   verw_beyond            cpl0       ok 00000000
;   verw_beyond            cpl3       ok 00000000
;   arpl                   cpl0       ok 00000012
;   arpl                   cpl3       ok 00000012
;   push_cs                cpl0       ok 00000008
;   push_cs                cpl3       ok 0000001b
;   mov_from_cs            cpl0       ok 00000008
;   mov_from_cs            cpl3       ok 0000001b
;   push_ss                cpl0       ok 00000010
;   push_ss                cpl3       ok 00000023
;   mov_from_ss            cpl0       ok 00000010
;   mov_from_ss            cpl3       ok 00000023
;   push_ds                cpl0       ok 00000010
;   push_ds                cpl3       ok 00000023
;   mov_from_ds            cpl0       ok 00000010
;   mov_from_ds            cpl3       ok 00000023
;   push_fs                cpl0       ok 00000010
;   push_fs                cpl3       ok 00000023
;   mov_from_fs            cpl0       ok 00000010
;   mov_from_fs            cpl3       ok 00000023
;   pop_ds_null            cpl0       ok 00000000
;   pop_ds_null            cpl3       ok 00000000
;   mov_fs_null            cpl0       ok 00000000
;   mov_fs_null            cpl3       ok 00000000
;   mov_ss_null            cpl0       #GP(0000)
;   mov_ss_null            cpl3       #GP(0000)
;   pop_ds_data            cpl0       ok 00000010
;   pop_ds_data            cpl3       #GP(0010)
;   mov_fs_data            cpl0       ok 00000010
;   mov_fs_data            cpl3       #GP(0010)
;   mov_ss_data            cpl0       ok 00000010
;   mov_ss_data            cpl3       #GP(0010)
;   pop_ds_user_data       cpl0       ok 00000023
;   pop_ds_user_data       cpl3       ok 00000023
;   mov_fs_user_data       cpl0       ok 00000023
;   mov_fs_user_data       cpl3       ok 00000023
;   mov_ss_user_data       cpl0       #GP(0020)
;   mov_ss_user_data       cpl3       ok 00000023
;   pop_ds_absent          cpl0       #NP(0048)
;   pop_ds_absent          cpl3       #NP(0048)
;   mov_fs_absent          cpl0       #NP(0048)
;   mov_fs_absent          cpl3       #NP(0048)
;   mov_ss_absent          cpl0       #GP(0048)
;   mov_ss_absent          cpl3       #SS(0048)
;   pop_ds_read_only       cpl0       ok 00000053
;   pop_ds_read_only       cpl3       ok 00000053
;   mov_fs_read_only       cpl0       ok 00000053
;   mov_fs_read_only       cpl3       ok 00000053
;   mov_ss_read_only       cpl0       #GP(0050)
;   mov_ss_read_only       cpl3       #GP(0050)
;   pop_ds_execute_only    cpl0       #GP(0058)
;   pop_ds_execute_only    cpl3       #GP(0058)
;   mov_fs_execute_only    cpl0       #GP(0058)
;   mov_fs_execute_only    cpl3       #GP(0058)
;   mov_ss_execute_only    cpl0       #GP(0058)
;   mov_ss_execute_only    cpl3       #GP(0058)
;   pop_ds_user_code       cpl0       ok 0000001b
;   pop_ds_user_code       cpl3       ok 0000001b
;   mov_fs_user_code       cpl0       ok 0000001b
;   mov_fs_user_code       cpl3       ok 0000001b
;   mov_ss_user_code       cpl0       #GP(0018)
;   mov_ss_user_code       cpl3       #GP(0018)
;   pop_ds_code            cpl0       ok 00000008
;   pop_ds_code            cpl3       #GP(0008)
;   mov_fs_code            cpl0       ok 00000008
;   mov_fs_code            cpl3       #GP(0008)
;   mov_ss_code            cpl0       #GP(0008)
;   mov_ss_code            cpl3       #GP(0008)
;   pop_ds_conforming      cpl0       ok 00000040
;   pop_ds_conforming      cpl3       ok 00000040
;   mov_fs_conforming      cpl0       ok 00000040
;   mov_fs_conforming      cpl3       ok 00000040
;   mov_ss_conforming      cpl0       #GP(0040)
;   mov_ss_conforming      cpl3       #GP(0040)
;   pop_ds_task            cpl0       #GP(0028)
;   pop_ds_task            cpl3       #GP(0028)
;   mov_fs_task            cpl0       #GP(0028)
;   mov_fs_task            cpl3       #GP(0028)
;   mov_ss_task            cpl0       #GP(0028)
;   mov_ss_task            cpl3       #GP(0028)
;   pop_ds_beyond          cpl0       #GP(07f8)
;   pop_ds_beyond          cpl3       #GP(07f8)
;   mov_fs_beyond          cpl0       #GP(07f8)
;   mov_fs_beyond          cpl3       #GP(07f8)
;   mov_ss_beyond          cpl0       #GP(07f8)
;   mov_ss_beyond          cpl3       #GP(07f8)
;   pop_ds_in_ldt          cpl0       ok 00000007
;   pop_ds_in_ldt          cpl3       ok 00000007
;   mov_fs_in_ldt          cpl0       ok 00000007
;   mov_fs_in_ldt          cpl3       ok 00000007
;   mov_ss_in_ldt          cpl0       #GP(0004)
;   mov_ss_in_ldt          cpl3       ok 00000007
;   pop_ds_beyond_ldt      cpl0       #GP(000c)
;   pop_ds_beyond_ldt      cpl3       #GP(000c)
;   mov_fs_beyond_ldt      cpl0       #GP(000c)
;   mov_fs_beyond_ldt      cpl3       #GP(000c)
;   mov_ss_beyond_ldt      cpl0       #GP(000c)
;   mov_ss_beyond_ldt      cpl3       #GP(000c)
;   pop_ss                 cpl0       ok 00000010
;   pop_ss                 cpl3       ok 00000023
;   mov_cs                 cpl0       #UD
;   mov_cs                 cpl3       #UD
;   use_null_ds            cpl0       #GP(0000)
;   use_null_ds            cpl3       #GP(0000)
;   les                    cpl0       ok 00000023
;   les                    cpl3       ok 00000023
;   lss_data               cpl0       ok 00000010
;   lss_data               cpl3       #GP(0010)
;   call_far               cpl0       ok 00000008
;   call_far               cpl3       #GP(0008)
;   call_far_user          cpl0       #GP(0018)
;   call_far_user          cpl3       ok 0000001b
;   call_far_data          cpl0       #GP(0020)
;   call_far_data          cpl3       #GP(0020)
;   call_far_null          cpl0       #GP(0000)
;   call_far_null          cpl3       #GP(0000)
;   call_gate              cpl0       ok 00080010
;   call_gate              cpl3       ok 00080010
;   call_gate_returns      cpl0       ok 00100008
;   call_gate_returns      cpl3       ok 0023001b
;   call_gate_parameter    cpl0       ok 00045678
;   call_gate_parameter    cpl3       ok 00045678
;   jmp_far                cpl0       ok 00000008
;   jmp_far                cpl3       #GP(0008)
;   jmp_gate               cpl3       #GP(0008)
;   jmp_conforming         cpl0       ok 00000040
;   jmp_conforming         cpl3       ok 00000043
;   jmp_local              cpl0       #GP(0030)
;   jmp_local              cpl3       #GP(0030)
;   retf_same              cpl0       ok 00000008
;   retf_same              cpl3       ok 0000001b
;   retf_outward           cpl0       ok 0000001b
;   retf_inward            cpl3       #GP(0008)
;   iret_same              cpl0       ok 00003000
;   iret_same              cpl3       ok 00000200
;   iret_same              cpl3 iopl3 ok 00003000
;   iret_outward           cpl0       ok 3200001b
;   iret_inward            cpl3       #GP(0008)
;   int_40                 cpl0       ok 00000040
;   int_40                 cpl3       #GP(0202)
;   int_80                 cpl0       ok 00000080
;   int_80                 cpl3       ok 00000080
;   int3                   cpl0       #BP
;   int3                   cpl3       #BP
;   int_3                  cpl0       #BP
;   int_3                  cpl3       #BP
;   into_clear             cpl0       ok 00000001
;   into_clear             cpl3       ok 00000001
;   into_set               cpl0       #OF
;   into_set               cpl3       #OF
;   int_13                 cpl3       #GP(006a)
;   done

.equ STACK, 0x90000             ; of the runner
.equ TEST_STACK, 0x8e000        ; of a test at CPL 0, and of whatever interrupts one at CPL 3
.equ USER_STACK, 0x8c000
.equ BUFFER, 0x80000

.equ CODE, 0x08                 ; in the order that SYSENTER and SYSEXIT ask for
.equ DATA, 0x10
.equ USER_CODE, 0x1b
.equ USER_DATA, 0x23
.equ TASK, 0x28
.equ LOCAL, 0x30
.equ GATE, 0x3b                 ; call gate of DPL 3
.equ CONFORMING, 0x40
.equ ABSENT, 0x4b
.equ READ_ONLY, 0x53
.equ EXECUTE_ONLY, 0x5b
.equ SMALL, 0x63                ; 4 KiB, byte-granular
.equ GATE_WITH_WORD, 0x6b       ; call gate that copies one parameter
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
.equ OVERFLOW, 32               ; starts with OF set

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
    pushfd
    pop eax
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
    mov esp, STACK
    lgdt [gdtr]
    ljmp CODE:.reloaded
.reloaded:
    call load_segments
    mov eax, DATA
    mov ss, eax
    mov edi, idt                ; all gates to `unexpected`, then the known ones
    mov ecx, 256
    mov eax, unexpected
    call write_gates
    mov ebx, 0
.exceptions:
    mov eax, dword ptr [ebx*4 + stubs]
    lea edi, [ebx*8 + idt]
    mov ecx, 1
    call write_gates
    inc ebx
    cmp ebx, 21
    jne .exceptions
    mov ebx, others
.others:
    mov edi, dword ptr [ebx]
    mov eax, dword ptr [ebx+4]
    mov ecx, 1
    lea edi, [edi*8 + idt]
    call write_gates
    add ebx, 8
    cmp ebx, others_end
    jne .others
    or byte ptr [idt + 3 * 8 + 5], 0x60     ; DPL 3: INT3, INTO, 80h, 81h
    or byte ptr [idt + 4 * 8 + 5], 0x60
    or byte ptr [idt + 0x80 * 8 + 5], 0x60
    or byte ptr [idt + 0x81 * 8 + 5], 0x60
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
    mov eax, gate_word_target
    mov word ptr [gdt + GATE_WITH_WORD - 3], ax
    shr eax, 16
    mov word ptr [gdt + GATE_WITH_WORD - 3 + 6], ax
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

    mov ebp, tests
next_test:
    cmp ebp, tests_end
    je all_done
    mov ebx, 1
.place:
    test byte ptr [ebp+4], bl
    jz .not_here
    call run
    call report
.not_here:
    shl ebx, 1
    cmp ebx, 8
    jne .place
    mov ebp, dword ptr [ebp]
    jmp next_test
all_done:
    mov esi, text_done
    call puts
    jmp finish

; ---- the runner ---------------------------------------------------------------------------------------------

run:                            ; EBP: test, EBX: place; leaves [vector], [error], [result]
    pushad
    mov dword ptr [saved_esp], esp
    lgdt [gdtr]
    lidt [idtr]
    and byte ptr [gdt + TASK + 5], 0xfd     ; not busy
    mov eax, TASK
    ltr ax
    mov eax, LOCAL
    lldt ax
    xor eax, eax
    test byte ptr [ebp+5], NO_TSC
    setnz al
    shl eax, 2
    mov cr4, eax
    test byte ptr [ebp+5], TIMER
    jz .no_timer
    mov al, 0xfe
    out 0x21, al
.no_timer:
    mov edx, 0x202              ; flags
    test byte ptr [ebp+5], NO_IF
    jz .with_if
    and edx, 0xfffffdff
.with_if:
    test byte ptr [ebp+5], OVERFLOW
    jz .no_overflow
    or edx, 0x800
.no_overflow:
    cmp ebx, USER_IO
    jne .no_iopl
    or edx, 0x3000
.no_iopl:
    lea esi, [ebp+6]            ; the code lies behind the name
.name:
    lodsb
    test al, al
    jnz .name
    cmp ebx, KERNEL
    je .kernel
    mov eax, USER_DATA
    push eax
    push USER_STACK
    push edx
    push USER_CODE
    push esi
    jmp .segments
.kernel:
    mov esp, TEST_STACK
    mov eax, DATA
    push edx
    push CODE
    push esi
.segments:
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
    iretd

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
came_back:                      ; on the stack: vector, error code; the test's segments may be anything
    push eax
    mov eax, DATA
    mov ds, eax
    pop dword ptr [result]
    pop dword ptr [vector]
    pop dword ptr [error]
    mov ss, eax
    mov esp, dword ptr [saved_esp]
    cld
    call load_segments
    mov al, 0xff
    out 0x21, al
    popad
    ret

load_segments:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    ret

unexpected:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov esi, text_unexpected
    call puts
    mov al, 1
    out DEBUG_EXIT, al
    jmp finish.stop

report:                         ; EBP: test, EBX: place
    pushad
    lea esi, [ebp+6]
    call puts
    mov ecx, esi
    sub ecx, ebp
.pad:
    mov al, ' '
    call putc
    inc ecx
    cmp ecx, 30
    jb .pad
    mov esi, text_kernel
    cmp ebx, KERNEL
    je .where
    mov esi, text_user
    cmp ebx, USER
    je .where
    mov esi, text_user_io
.where:
    call puts
    call as_announced
    jc .raw
    mov esi, text_cpuid
    call puts
    jmp .end
.raw:
    mov eax, dword ptr [vector]
    cmp eax, 0x81
    je .ok
    lea esi, [eax+eax*2]
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
    mov esi, text_ok
    call puts
    mov eax, dword ptr [result]
    call puthex
.end:
    mov al, 10
    call putc
    popad
    ret

as_announced:                   ; EBP: test; carry clear: what happened is what CPUID announces for its feature
    push ebx
    test byte ptr [ebp+5], HAS_RDTSCP | HAS_SMAP
    stc
    jz .return
    test byte ptr [ebp+5], HAS_SMAP
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
    pop ebx
    ret

write_gates:                    ; EDI: first gate, ECX: how many, EAX: handler; 32-bit interrupt gates of DPL 0
    mov word ptr [edi], ax
    mov word ptr [edi+2], CODE
    mov word ptr [edi+4], 0x8e00
    rol eax, 16
    mov word ptr [edi+6], ax
    rol eax, 16
    add edi, 8
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
    push eax
    mov al, 0x20
    out 0x20, al
    pop eax
    iretd

interrupt_40:
    mov eax, 0x40
    iretd

interrupt_80:
    mov eax, 0x80
    iretd

sysenter_target:                ; EAX: CS, IF
    flags 0x200
    mov ecx, cs
    or eax, ecx
    int 0x81

gate_target:                    ; EAX: CS and SS in here
    mov eax, cs
    shl eax, 16
    mov ecx, ss
    mov ax, cx
    retf

gate_word_target:               ; EAX: the parameter
    mov eax, dword ptr [esp+8]
    retf 4

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
    pushfw
    pop ax
    and eax, 0x3200
    done pushfw
    begin popf, ALL, 0           ; tries to clear IF and raise IOPL
    push 0x3002
    popfd
    flags 0x3200
    done popf
    begin popfw, ALL, 0
    mov ax, 0x3002
    push ax
    popfw
    flags 0x3200
    done popfw
    begin popf_set_if, ALL, NO_IF
    push 0x202
    popfd
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
    begin outs, ALL, 0
    mov esi, zero
    mov edx, 0xed
    outsb
    mov eax, esi
    sub eax, zero
    done outs
    begin rep_outs, ALL, 0
    mov esi, zero
    mov edx, 0xed
    mov ecx, 3
    rep outsb
    mov eax, esi
    sub eax, zero
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
    begin lmsw, BOTH, 0          ; sets TS, which the next test clears
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
    mov eax, cr0
    and eax, 0x80000001
    done mov_from_cr0
    begin mov_to_cr0, BOTH, 0
    mov eax, 0x11
    mov cr0, eax
    done mov_to_cr0
    begin mov_to_cr2, BOTH, 0
    mov eax, 0x12345678
    mov cr2, eax
    xor eax, eax
    mov eax, cr2
    done mov_to_cr2
    begin mov_from_cr3, BOTH, 0
    mov eax, cr3
    xor eax, eax
    done mov_from_cr3
    begin mov_to_cr3, BOTH, 0
    mov eax, 0x5000
    mov cr3, eax
    xor eax, eax
    mov eax, cr3
    done mov_to_cr3
    begin mov_from_cr4, BOTH, 0
    mov eax, cr4
    done mov_from_cr4
    begin mov_to_cr4, BOTH, 0
    mov eax, 4
    mov cr4, eax
    xor eax, eax
    mov eax, cr4
    done mov_to_cr4
    simple mov_to_cr1, KERNEL, 0, {.byte 0x0f, 0x22, 0xc8}   ; mov cr1, eax: no such register
    begin mov_to_dr0, BOTH, 0
    mov eax, 0x4321
    mov dr0, eax
    xor eax, eax
    mov eax, dr0
    done mov_to_dr0
    begin mov_from_dr7, BOTH, 0
    mov eax, dr7
    done mov_from_dr7
    begin mov_to_dr7, BOTH, 0
    mov eax, 0x400
    mov dr7, eax
    xor eax, eax
    mov eax, dr7
    done mov_to_dr7
    begin rdmsr, BOTH, 0
    mov ecx, 0x174
    rdmsr
    done rdmsr
    begin wrmsr, BOTH, 0
    mov ecx, 0x174
    mov eax, CODE
    wrmsr
    done wrmsr
    begin rdmsr_reserved, BOTH, 0
    mov ecx, 0x40000fff         ; in the range that no processor uses
    rdmsr
    done rdmsr_reserved
    simple rdpmc, USER, 0, rdpmc
    simple rdtsc, BOTH, 0, rdtsc
    simple rdtsc_tsd, BOTH, NO_TSC, rdtsc
    simple rdtscp, BOTH, HAS_RDTSCP, rdtscp
    simple rdtscp_tsd, KERNEL, NO_TSC | HAS_RDTSCP, rdtscp
    simple cpuid, BOTH, 0, cpuid
    begin sysenter, BOTH, 0
    sysenter
    done sysenter
    begin sysexit, BOTH, 0
    mov ecx, USER_STACK
    mov edx, sysexit_lands
    sysexit
sysexit_lands:
    mov eax, ss
    shl eax, 16
    mov ax, cs
    done sysexit
    simple syscall, BOTH, 0, syscall
    simple sysret, BOTH, 0, {.byte 0x0f, 0x07}
    simple swapgs, BOTH, 0, {.byte 0x0f, 0x01, 0xf8}
    simple stac, KERNEL, HAS_SMAP, stac
    simple clac, KERNEL, HAS_SMAP, clac
    simple stac_user, USER, 0, stac
    simple clac_user, USER, 0, clac
    simple xgetbv, BOTH, 0, xgetbv
    simple xsetbv, BOTH, 0, xsetbv
    simple rdfsbase, BOTH, 0, {.byte 0xf3, 0x0f, 0xae, 0xc0}
    simple rdpkru, BOTH, 0, rdpkru
    simple rsm, BOTH, 0, rsm
    simple ud2, BOTH, 0, ud2

; sensitive but unprivileged: descriptor tables
    begin sgdt, BOTH, 0          ; the limit, and 0 for the right base
    mov edi, BUFFER
    sgdt [edi]
    mov eax, dword ptr [edi+2]
    sub eax, gdt
    shl eax, 16
    mov ax, word ptr [edi]
    done sgdt
    begin sidt, BOTH, 0
    mov edi, BUFFER
    sidt [edi]
    mov eax, dword ptr [edi+2]
    sub eax, idt
    shl eax, 16
    mov ax, word ptr [edi]
    done sidt
    begin sldt, BOTH, 0
    sldt eax
    done sldt
    begin str, BOTH, 0
    str eax
    done str
    begin smsw, BOTH, 0
    smsw ax
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
    lar_test lar_user_data, USER_DATA
    lar_test lar_conforming, CONFORMING
    lar_test lar_task, TASK
    lar_test lar_local, LOCAL
    lar_test lar_gate, GATE
    lar_test lar_absent, ABSENT
    lar_test lar_null, 0
    lar_test lar_beyond, BEYOND
    lar_test lar_in_ldt, 0x07

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
    lsl_test lsl_user_data, USER_DATA
    lsl_test lsl_small, SMALL
    lsl_test lsl_task, TASK
    lsl_test lsl_gate, GATE
    lsl_test lsl_null, 0
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
    verify_test verr_read_only, verr, READ_ONLY
    verify_test verr_task, verr, TASK
    verify_test verr_null, verr, 0
    verify_test verw_data, verw, DATA
    verify_test verw_user_data, verw, USER_DATA
    verify_test verw_read_only, verw, READ_ONLY
    verify_test verw_user_code, verw, USER_CODE
    verify_test verw_beyond, verw, BEYOND
    begin arpl, BOTH, 0          ; raises the requested level of AX to that of CX
    mov eax, DATA
    mov ecx, 2
    arpl ax, cx
    done arpl

; segment registers
.macro store_test name, segment
    begin push_\name, BOTH, 0
    push \segment
    pop eax
    done push_\name
    begin mov_from_\name, BOTH, 0
    mov eax, \segment
    done mov_from_\name
.endm
    store_test cs, cs
    store_test ss, ss
    store_test ds, ds
    store_test fs, fs
.macro load_test name, selector
    begin pop_ds_\name, BOTH, 0
    push \selector
    pop ds
    mov eax, ds
    done pop_ds_\name
    begin mov_fs_\name, BOTH, 0
    mov eax, \selector
    mov fs, eax
    mov eax, fs
    done mov_fs_\name
    begin mov_ss_\name, BOTH, 0
    mov eax, \selector
    mov ss, eax
    mov eax, ss
    done mov_ss_\name
.endm
    load_test null, 0
    load_test data, DATA
    load_test user_data, USER_DATA
    load_test absent, ABSENT
    load_test read_only, READ_ONLY
    load_test execute_only, EXECUTE_ONLY
    load_test user_code, USER_CODE
    load_test code, CODE
    load_test conforming, CONFORMING
    load_test task, TASK
    load_test beyond, BEYOND
    load_test in_ldt, 0x07
    load_test beyond_ldt, 0x0f
    begin pop_ss, BOTH, 0
    push ss
    pop ss
    mov eax, ss
    done pop_ss
    simple mov_cs, BOTH, 0, {.byte 0x8e, 0xc8}      ; mov cs, eax
    begin use_null_ds, BOTH, 0
    xor eax, eax
    mov ds, eax
    mov eax, dword ptr [zero]
    done use_null_ds
    begin les, BOTH, 0
    mov ebx, pointer_user_data
    les eax, [ebx]
    mov eax, es
    done les
    begin lss_data, BOTH, 0
    mov ebx, pointer_data
    lss ecx, [ebx]
    mov eax, ss
    done lss_data

; far transfers
    begin call_far, BOTH, 0
    lcall CODE:far_returns
    mov eax, cs
    done call_far
    begin call_far_user, BOTH, 0
    lcall USER_CODE:far_returns
    mov eax, cs
    done call_far_user
    begin call_far_data, BOTH, 0
    lcall USER_DATA:far_returns
    done call_far_data
    begin call_far_null, BOTH, 0
    lcall 0:far_returns
    done call_far_null
    begin call_gate, BOTH, 0
    lcall GATE:0
    done call_gate
    begin call_gate_returns, BOTH, 0
    lcall GATE:0
    mov eax, ss
    shl eax, 16
    mov ax, cs
    done call_gate_returns
    begin call_gate_parameter, BOTH, 0
    push 0x5678
    mov ebx, esp
    lcall GATE_WITH_WORD:0
    mov ecx, esp                ; at CPL 3 the parameter is gone from both stacks, at CPL 0 from the one
    sub ecx, ebx
    shl ecx, 16
    or eax, ecx
    done call_gate_parameter
    begin jmp_far, BOTH, 0
    ljmp CODE:jmp_far_lands
jmp_far_lands:
    mov eax, cs
    done jmp_far
    begin jmp_gate, USER, 0      ; a jump must not raise the privilege
    ljmp GATE:0
    done jmp_gate
    begin jmp_conforming, BOTH, 0
    ljmp CONFORMING:conforming_target
    done jmp_conforming
    begin jmp_local, BOTH, 0
    ljmp LOCAL:0
    done jmp_local
    begin retf_same, BOTH, 0
    mov eax, cs
    push eax
    push retf_same_lands
    retf
retf_same_lands:
    mov eax, cs
    done retf_same
    begin retf_outward, KERNEL, 0
    push USER_DATA
    push USER_STACK
    push USER_CODE
    push retf_outward_lands
    retf
retf_outward_lands:             ; DATA in DS, too privileged for CPL 3, is gone
    mov eax, ds
    shl eax, 16
    mov ax, cs
    done retf_outward
    begin retf_inward, USER, 0
    push CODE
    push retf_outward_lands
    retf
    done retf_inward
    begin iret_same, ALL, 0      ; tries to clear IF and raise IOPL
    push 0x3002
    mov eax, cs
    push eax
    push iret_same_lands
    iretd
iret_same_lands:
    flags 0x3200
    done iret_same
    begin iret_outward, KERNEL, 0
    push USER_DATA
    push USER_STACK
    push 0x3202
    push USER_CODE
    push iret_outward_lands
    iretd
iret_outward_lands:
    flags 0x3200
    shl eax, 16
    mov ax, cs
    done iret_outward
    begin iret_inward, USER, 0
    push 0x202
    push CODE
    push iret_outward_lands
    iretd
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
    simple into_clear, BOTH, 0, into
    simple into_set, BOTH, OVERFLOW, into
    simple int_13, USER, 0, {int 13}
tests_end:

far_returns:
    retf

; ---- data ---------------------------------------------------------------------------------------------------

.align 8, 0
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    ; CODE
    .quad 0x00cf93000000ffff    ; DATA
    .quad 0x00cffb000000ffff    ; USER_CODE
    .quad 0x00cff3000000ffff    ; USER_DATA
    .quad 0x0000890000000000 + task_end - task - 1
    .quad 0x0000820000000000 + local_end - local_table - 1
    .quad 0x0000ec0000080000    ; GATE
    .quad 0x00cf9f000000ffff    ; CONFORMING
    .quad 0x00cf73000000ffff    ; ABSENT
    .quad 0x00cff1000000ffff    ; READ_ONLY
    .quad 0x00cff9000000ffff    ; EXECUTE_ONLY
    .quad 0x0040f30000000fff    ; SMALL
    .quad 0x0000ec0100080000    ; GATE_WITH_WORD
gdt_end:
local_table:
    .quad 0x00cff3000000ffff    ; 07: data of DPL 3
local_end:
task:                           ; SDM vol. 3, 8.2.1: ESP0 at 4, SS0 at 8, I/O map base at 102
    .long 0, TEST_STACK, DATA
    .space 88
    .word 0, 104
    .space 16, 0xff             ; ports 0 to 7fh
    .byte 0xfe                  ; 80h is allowed
    .byte 0xff
task_end:
gdtr:
    .word gdt_end - gdt - 1
    .long gdt
idtr:
    .word 256 * 8 - 1
    .long idt
.align 4, 0
stubs:
    .long stub_0, stub_1, stub_2, stub_3, stub_4, stub_5, stub_6, stub_7, stub_8, stub_9, stub_10, stub_11
    .long stub_12, stub_13, stub_14, stub_15, stub_16, stub_17, stub_18, stub_19, stub_20
others:
    .long 0x20, irq0, 0x40, interrupt_40, 0x80, interrupt_80, 0x81, stub_129
others_end:
zero:
    .long 0
pointer_user_data:
    .long 0
    .word USER_DATA
pointer_data:
    .long 0
    .word DATA
saved_esp:
    .long 0
vector:
    .long 0
error:
    .long 0
result:
    .long 0
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

.include "console32.inc"

.align 8, 0
idt:
    .space 256 * 8
