/* Executes single instructions on the real CPU in a process of their own: cases come on stdin, outcomes go to stdout.
 *
 * Everything happens in one signal handler. The code of a case is followed by HLT, which always faults here, so each
 * case ends in a signal; the handler stores the interrupted state as the outcome of one case, puts the next one into the
 * signal frame and returns into it. No C library is linked: FS and GS are then free for the cases.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>

enum {
    MAGIC = 0x66696476,
    CODE_BYTES = 16,
    FX_BYTES = 512,
    MAX_DATA = 0x4000,
    MAX_BATCH = 512,
    MAX_SEGMENTS = 8,
    HLT = 0xF4,
    XSTATE_BV = 512, /* offset of XSTATE_BV behind the FXSAVE image (SDM vol. 1, 13.4.2) */
    X87_AND_SSE = 3,
    TIMEOUT = 255,
    RESTORER = 0x04000000, /* SA_RESTORER, which only the kernel's own header names */
    HANDLER_FLAGS = 0x202
};

struct setup { /* what the other side says first */
    uint64_t code, code_size, data, writable, readable, fs, gs;
    uint64_t segments;
    struct user_desc segment[MAX_SEGMENTS];
};

struct test {
    uint64_t at; /* linear address of the code */
    uint32_t length;
    uint16_t cs, ss, ds, es;
    uint32_t unused;
    uint8_t code[CODE_BYTES];
    uint64_t rip, flags, regs[16];
    uint8_t fx[FX_BYTES];
    /* then `writable` bytes of data */
};

struct outcome {
    uint32_t signal, vector;
    uint64_t error, cr2, rip, flags, regs[16];
    uint8_t fx[FX_BYTES];
    /* then `writable` bytes of data */
};

static struct setup setup;
static uint8_t tests[MAX_BATCH * (sizeof(struct test) + MAX_DATA)];
static uint8_t outcomes[MAX_BATCH * (sizeof(struct outcome) + MAX_DATA)];
static uint8_t handler_stack[1 << 16] __attribute__((aligned(16)));
static uint8_t *code_alias; /* the code pages, writable */
static uint32_t count, current;
static int started;

static long call(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f;
    long result;
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return result;
}

static void copy(void *to, const void *from, uint64_t size) {
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void fill(void *to, int byte, uint64_t size) {
    asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
}

static void leave(int status) {
    for (;;)
        call(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

/* Returns 0 at the end of the input. */
static int take(void *to, uint64_t size) {
    for (uint64_t done = 0; done < size;) {
        long got = call(SYS_read, 0, (long)to + (long)done, (long)(size - done), 0, 0, 0);
        if (got <= 0)
            return 0;
        done += (uint64_t)got;
    }
    return 1;
}

static void give(const void *from, uint64_t size) {
    for (uint64_t done = 0; done < size;) {
        long put = call(SYS_write, 1, (long)from + (long)done, (long)(size - done), 0, 0, 0);
        if (put <= 0)
            leave(3);
        done += (uint64_t)put;
    }
}

static struct test *test_at(uint32_t number) {
    return (struct test *)(tests + number * (sizeof(struct test) + setup.writable));
}

static struct outcome *outcome_at(uint32_t number) {
    return (struct outcome *)(outcomes + number * (sizeof(struct outcome) + setup.writable));
}

/* The order of general registers in the instruction encoding, as indices of a signal frame. */
static const int8_t order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void record(int number, ucontext_t *context) {
    struct outcome *out = outcome_at(current);
    struct test *test = test_at(current);
    greg_t *regs = context->uc_mcontext.gregs;
    out->signal = (uint32_t)number;
    out->vector = number == SIGALRM ? TIMEOUT : (uint32_t)regs[REG_TRAPNO];
    out->error = (uint64_t)regs[REG_ERR];
    out->cr2 = (uint64_t)regs[REG_CR2];
    out->rip = (uint64_t)regs[REG_RIP];
    out->flags = (uint64_t)regs[REG_EFL];
    for (int n = 0; n < 16; n++)
        out->regs[n] = (uint64_t)regs[order[n]];
    copy(out->fx, context->uc_mcontext.fpregs, FX_BYTES);
    copy(out + 1, (void *)setup.data, setup.writable);
    fill(code_alias + (test->at - setup.code), HLT, test->length);
}

/* Seconds until a case counts as endless; 0 while there is none. */
static void watch(long seconds) {
    struct itimerval timer = {{0, 0}, {seconds, 0}};
    call(SYS_setitimer, ITIMER_REAL, (long)&timer, 0, 0, 0, 0);
}

static void next_batch(void) {
    watch(0);
    if (started)
        give(outcomes, count * (sizeof(struct outcome) + setup.writable));
    started = 1;
    if (!take(&count, sizeof count) || count == 0)
        leave(0);
    if (count > MAX_BATCH || !take(tests, count * (sizeof(struct test) + setup.writable)))
        leave(4);
    current = 0;
}

static void enter(ucontext_t *context) {
    struct test *test = test_at(current);
    greg_t *regs = context->uc_mcontext.gregs;
    uint8_t *image = (uint8_t *)context->uc_mcontext.fpregs;
    copy(code_alias + (test->at - setup.code), test->code, test->length);
    copy((void *)setup.data, test + 1, setup.writable);
    for (int n = 0; n < 16; n++)
        regs[order[n]] = (greg_t)test->regs[n];
    regs[REG_RIP] = (greg_t)test->rip;
    regs[REG_EFL] = (greg_t)test->flags;
    regs[REG_CSGSFS] = (greg_t)((uint64_t)test->cs | (uint64_t)test->ss << 48);
    copy(image, test->fx, 464); /* the rest tells the kernel how the frame is laid out */
    *(uint64_t *)(image + XSTATE_BV) |= X87_AND_SSE;
    asm volatile("mov %0, %%ds; mov %1, %%es" : : "r"((uint32_t)test->ds), "r"((uint32_t)test->es));
    asm volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(0));
    call(SYS_arch_prctl, ARCH_SET_FS, (long)setup.fs, 0, 0, 0, 0);
    call(SYS_arch_prctl, ARCH_SET_GS, (long)setup.gs, 0, 0, 0, 0);
    watch(2);
}

__attribute__((used)) static void handle(int number, siginfo_t *info, ucontext_t *context) {
    (void)info;
    if (started) {
        record(number, context);
        current++;
    }
    if (current == count)
        next_batch();
    enter(context);
}

/* A case may leave AC set, which would make the handler's own misaligned accesses fault. */
void handler_entry(void);
void restorer(void);
void _start(void);
asm(".globl handler_entry\n"
    "handler_entry: pushq $0x202\n popfq\n jmp handle\n"
    ".globl restorer\n"
    "restorer: mov $15, %eax\n syscall\n"
    ".globl _start\n"
    "_start: and $-16, %rsp\n call prepare\n ud2\n");

struct action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static void require(int good, int status) {
    if (!good)
        leave(status);
}

__attribute__((used)) static void prepare(void) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM};
    uint32_t hello[2] = {MAGIC, 1};
    require(take(&setup, sizeof setup) && setup.writable <= MAX_DATA && setup.segments <= MAX_SEGMENTS, 5);
    int file = (int)call(SYS_memfd_create, (long)"", MFD_CLOEXEC, 0, 0, 0, 0);
    require(file >= 0 && call(SYS_ftruncate, file, (long)setup.code_size, 0, 0, 0, 0) == 0, 6);
    long code = call(SYS_mmap, (long)setup.code, (long)setup.code_size, PROT_READ | PROT_EXEC,
                     MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
    long alias = call(SYS_mmap, 0, (long)setup.code_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    long data = call(SYS_mmap, (long)setup.data, (long)(setup.writable + setup.readable), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    require(code == (long)setup.code && alias > 0 && data == (long)setup.data, 7);
    code_alias = (uint8_t *)alias;
    fill(code_alias, HLT, setup.code_size);
    require(take((void *)(setup.data + setup.writable), setup.readable), 5);
    require(call(SYS_mprotect, (long)(setup.data + setup.writable), (long)setup.readable, PROT_READ, 0, 0, 0) == 0, 8);
    for (uint64_t n = 0; n < setup.segments; n++)
        if (call(SYS_modify_ldt, 1, (long)&setup.segment[n], sizeof(struct user_desc), 0, 0, 0) != 0)
            hello[1] = 0; /* a kernel without modify_ldt: only the flat segments can be used */
    stack_t stack = {handler_stack, 0, sizeof handler_stack};
    require(call(SYS_sigaltstack, (long)&stack, 0, 0, 0, 0, 0) == 0, 9);
    struct action action = {(void *)handler_entry, SA_SIGINFO | SA_ONSTACK | RESTORER, (void *)restorer, ~0ul};
    for (unsigned n = 0; n < sizeof signals / sizeof *signals; n++)
        require(call(SYS_rt_sigaction, signals[n], (long)&action, 0, 8, 0, 0) == 0, 10);
    give(hello, sizeof hello);
}
