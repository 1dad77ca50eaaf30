//! The victim: a forked process that executes its operation one instruction at a time.
//! x86-64 Linux, by ptrace.
//!
//! Everything is forked from the test process and nothing is exec'ed, so code lies at the same
//! addresses everywhere: the tracer reads the victim's instructions in its own memory.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use crate::process::{Forked, fork, give_way, pause, state, wait_now};
use crate::sweep::Operation;

/// Where an attempt to advance ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// After as many instructions as were asked for.
    Here,
    /// The operation has returned.
    Done,
    /// Asleep in the kernel, where that was asked for.
    Asleep,
    /// Asleep, and nobody wakes it.
    Stuck(String),
    /// It died by itself, with this wait status.
    Died(i32),
}

#[cfg(target_arch = "x86_64")]
mod arch {
    // Calls `function(argument)` between two breakpoints.
    std::arch::global_asm!(
        ".pushsection .text.multiprocess_testkit,\"ax\",@progbits",
        ".globl multiprocess_testkit_call",
        "multiprocess_testkit_call:",
        "push rbp",
        "mov rbp, rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "int3",
        "call rax",
        ".globl multiprocess_testkit_end",
        "multiprocess_testkit_end:",
        "int3",
        "pop rbp",
        "ret",
        ".popsection",
    );
    pub(super) const RIP: usize = 16 * 8;
    pub(super) const RAX: usize = 10 * 8;
    pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
}

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn multiprocess_testkit_call(
        function: extern "C" fn(*mut c_void) -> u64,
        argument: *mut c_void,
    ) -> u64;
    static multiprocess_testkit_end: u8;
}

/// The first bytes of the instruction at `address`.
pub(crate) fn instruction(address: u64) -> [u8; 4] {
    // SAFETY: callers pass addresses that the victim, a copy of this process, executes; the
    // code of every loaded object is readable and does not end within four bytes of it.
    unsafe { (address as *const [u8; 4]).read_unaligned() }
}

extern "C" fn perform(operation: *mut c_void) -> u64 {
    // SAFETY: `start` passes a pointer to a live `Operation`.
    let operation = unsafe { &mut *operation.cast::<Operation<'_>>() };
    operation()
}

fn end_address() -> u64 {
    (&raw const multiprocess_testkit_end) as u64
}

/// A process under the tracer.
#[derive(Debug)]
pub(crate) struct Tracee {
    forked: Forked,
    /// Instructions executed.
    pub(crate) steps: u64,
    pub(crate) done: bool,
    pub(crate) result: u64,
    asleep: bool,
}

/// Whether this process may trace its children: `Err` says why not. Asked once.
pub(crate) fn permission() -> Result<(), String> {
    static ANSWER: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    ANSWER
        .get_or_init(|| {
            if cfg!(not(target_arch = "x86_64")) {
                return Err("single-stepping is written for x86-64 only".into());
            }
            let mut probe = Tracee::start(|| Box::new(|| 7))?;
            let never = &mut || ();
            match probe.advance(
                u64::MAX,
                None,
                never,
                Duration::from_secs(5),
                &mut |_, _| (),
            ) {
                At::Done if probe.result == 7 => Ok(()),
                other => Err(format!("a probe ended in {other:?}")),
            }
        })
        .clone()
}

fn request(request: u32, pid: i32, address: usize, data: usize) -> i64 {
    // SAFETY: every use passes a tracee of this thread, and data that is a number or a pointer
    // to a live local of the kernel's type.
    unsafe { libc::ptrace(request, pid, address, data) }
}

impl Tracee {
    /// Forks a process that prepares itself with `prepare`, unstepped, and stops before the
    /// first instruction of what `prepare` returns.
    pub(crate) fn start<'a>(prepare: impl FnOnce() -> Operation<'a>) -> Result<Self, String> {
        let pid = fork(|| {
            if request(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                // SAFETY: ends the process.
                unsafe { libc::_exit(102) };
            }
            let mut operation = prepare();
            // SAFETY: `perform` takes just this pointer, and the operation outlives the call.
            unsafe { multiprocess_testkit_call(perform, (&raw mut operation).cast()) };
        });
        let mut tracee = Self {
            forked: Forked::adopt(pid),
            steps: 0,
            done: false,
            result: 0,
            asleep: false,
        };
        let end = Instant::now() + Duration::from_secs(10);
        let mut status = 0;
        while !wait_now(pid, &mut status) {
            if Instant::now() > end {
                return Err("the victim hangs before its operation".into());
            }
            give_way();
        }
        if !libc::WIFSTOPPED(status) {
            tracee.forked.mark_reaped();
            return Err(format!(
                "ptrace is forbidden, or arm failed: status {status:#x}"
            ));
        }
        request(
            libc::PTRACE_SETOPTIONS,
            pid,
            0,
            libc::PTRACE_O_EXITKILL as usize,
        );
        Ok(tracee)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.forked.pid
    }

    fn register(&self, offset: usize) -> u64 {
        let mut value = 0u64;
        // SAFETY: the raw call stores the word through the pointer it is given.
        unsafe {
            libc::syscall(
                libc::SYS_ptrace,
                libc::PTRACE_PEEKUSER,
                self.forked.pid,
                offset,
                &raw mut value,
            );
        }
        value
    }

    /// The address of the next instruction.
    pub(crate) fn address(&self) -> u64 {
        self.register(arch::RIP)
    }

    /// Steps until `target` instructions were executed, or the operation returns. If it falls
    /// asleep: stops there if that happens at step `asleep`, else calls `wake` once and goes
    /// on. `visit` sees every step's number and address.
    pub(crate) fn advance(
        &mut self,
        target: u64,
        asleep: Option<u64>,
        wake: &mut dyn FnMut(),
        patience: Duration,
        visit: &mut dyn FnMut(u64, u64),
    ) -> At {
        let mut signal = 0;
        loop {
            let address = self.address();
            if address == end_address() {
                self.done = true;
                self.result = self.register(arch::RAX);
            }
            visit(self.steps, address);
            if self.done {
                return At::Done;
            }
            if self.steps >= target {
                return At::Here;
            }
            let [first, second, ..] = instruction(address);
            let is_syscall = [first, second] == arch::SYSCALL;
            request(libc::PTRACE_SINGLESTEP, self.forked.pid, 0, signal as usize);
            signal = 0;
            let status = if is_syscall {
                match self.wait_in_syscall(asleep, wake, patience) {
                    Ok(status) => status,
                    Err(at) => return at,
                }
            } else {
                let mut status = 0;
                // SAFETY: a child of ours, stepped a moment ago.
                unsafe { libc::waitpid(self.forked.pid, &mut status, libc::__WALL) };
                status
            };
            if !libc::WIFSTOPPED(status) {
                self.forked.mark_reaped();
                return At::Died(status);
            }
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP => self.steps += 1,
                other => signal = other, // delivered with the next step
            }
        }
    }

    /// The victim may sleep in this system call.
    fn wait_in_syscall(
        &mut self,
        asleep: Option<u64>,
        wake: &mut dyn FnMut(),
        patience: Duration,
    ) -> Result<i32, At> {
        let (mut polls, mut sleeps, mut woken) = (0u32, 0u32, false);
        let mut start = Instant::now();
        loop {
            let mut status = 0;
            if wait_now(self.forked.pid, &mut status) {
                return Ok(status);
            }
            polls += 1;
            give_way();
            if polls < 20 {
                continue;
            }
            // Three readings: a process is also in this state on its way in and out.
            sleeps = if state(self.forked.pid) == b'S' {
                sleeps + 1
            } else {
                0
            };
            if sleeps >= 3 && !woken {
                if asleep == Some(self.steps) {
                    self.asleep = true;
                    return Err(At::Asleep);
                }
                wake();
                woken = true;
                start = Instant::now();
            }
            if start.elapsed() > patience {
                self.asleep = true;
                return Err(At::Stuck(format!(
                    "asleep after {} instructions, and nobody wakes it",
                    self.steps
                )));
            }
            if woken || sleeps > 0 {
                pause();
            }
        }
    }

    /// Lets it run to the end of its operation, unstepped.
    pub(crate) fn finish(&mut self, wake: &mut dyn FnMut(), patience: Duration) -> At {
        if self.done {
            return At::Done;
        }
        if !self.asleep {
            request(libc::PTRACE_CONT, self.forked.pid, 0, 0);
        }
        let (mut polls, mut sleeps, mut woken) = (0u32, 0u32, false);
        let mut start = Instant::now();
        loop {
            let mut status = 0;
            if wait_now(self.forked.pid, &mut status) {
                if !libc::WIFSTOPPED(status) {
                    self.forked.mark_reaped();
                    return At::Died(status);
                }
                self.asleep = false;
                // The breakpoint at the end leaves the address behind itself.
                if self.address() == end_address() + 1 {
                    self.done = true;
                    self.result = self.register(arch::RAX);
                    return At::Done;
                }
                // The trap of a step that had put it to sleep, or a signal.
                let signal = match libc::WSTOPSIG(status) {
                    libc::SIGTRAP => 0,
                    other => other,
                };
                request(libc::PTRACE_CONT, self.forked.pid, 0, signal as usize);
                continue;
            }
            polls += 1;
            give_way();
            if polls < 20 {
                continue;
            }
            sleeps = if state(self.forked.pid) == b'S' {
                sleeps + 1
            } else {
                0
            };
            if sleeps >= 3 && !woken {
                wake();
                woken = true;
                start = Instant::now();
            }
            if start.elapsed() > patience {
                return At::Stuck("continued, it never finishes".into());
            }
            if woken || sleeps > 0 {
                pause();
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.forked.kill();
    }
}

/// Where a process that hangs is: stops it to look.
pub(crate) fn whereabouts(pid: i32) -> String {
    let was = char::from(state(pid));
    if request(libc::PTRACE_SEIZE, pid, 0, 0) != 0 {
        return format!("state {was}");
    }
    request(libc::PTRACE_INTERRUPT, pid, 0, 0);
    let mut status = 0;
    // SAFETY: a child of ours that was interrupted a moment ago.
    unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    let looker = std::mem::ManuallyDrop::new(Tracee {
        forked: Forked::adopt(pid),
        steps: 0,
        done: false,
        result: 0,
        asleep: false,
    });
    format!("state {was}, at {}", crate::symbol::of(looker.address()))
}
