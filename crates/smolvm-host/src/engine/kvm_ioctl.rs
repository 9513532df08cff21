//! The few KVM ioctls that run a 16-bit loop, and a read of the time stamp counter.

#![allow(unsafe_code, reason = "ioctls with raw pointers and a shared mapping have no safe form in rustix")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
const KVM_CREATE_VM: libc::c_ulong = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xae04;
const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
const KVM_SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;
const KVM_RUN: libc::c_ulong = 0xae80;
const KVM_SET_REGS: libc::c_ulong = 0x4090_ae82;
const KVM_GET_SREGS: libc::c_ulong = 0x8138_ae83;
const KVM_SET_SREGS: libc::c_ulong = 0x4138_ae84;
const KVM_EXIT_HLT: u32 = 5;
const PAGE: usize = 4096;
/// Where the loop lies in the guest's memory.
const CODE: u64 = 0x1000;

/// `mov ecx, N` (patched in), `dec ecx`, `jnz -4`, `hlt`, in 16-bit code.
const LOOP: [u8; 11] = [0x66, 0xb9, 0, 0, 0, 0, 0x66, 0x49, 0x75, 0xfc, 0xf4];

#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
}

/// The general registers in the kernel's order: rax.. r15, rip, rflags.
type Regs = [u64; 18];
const RIP: usize = 16;
const RFLAGS: usize = 17;
/// Segments, tables and control registers; only the code segment's base and selector are changed.
type Sregs = [u8; 0x138];

/// A step that the kernel refused.
#[derive(Debug)]
pub(super) struct Failed {
    /// The ioctl's name.
    pub step: &'static str,
    /// The kernel's reason.
    pub errno: i32,
}

/// How the guest came back from a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// It executed `hlt`: the loop is over.
    Halted,
    /// A signal came first.
    Interrupted,
    /// Anything else: this device does not execute plain code.
    Strange(u32),
}

/// One page of guest with one processor, ready to run the loop.
#[derive(Debug)]
pub(super) struct LoopGuest {
    vcpu: File,
    _vm: File,
    _memory: Mapping,
    run: Mapping,
}

#[derive(Debug)]
struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `at` and `len` come from one successful mmap and are unmapped once, here.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

fn ioctl(fd: &File, request: libc::c_ulong, arg: u64, step: &'static str) -> Result<i32, Failed> {
    // SAFETY: every request here takes either a plain number or the address of a live value of the
    // exact size that is encoded in the request (callers below), and the kernel keeps none of them.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, arg) };
    if result < 0 { Err(Failed { step, errno: errno() }) } else { Ok(result) }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn map(fd: Option<&File>, len: usize) -> Result<Mapping, Failed> {
    let (flags, raw) = match fd {
        Some(fd) => (libc::MAP_SHARED, fd.as_raw_fd()),
        None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, raw, 0) };
    if at == libc::MAP_FAILED { Err(Failed { step: "mmap", errno: errno() }) } else { Ok(Mapping { at, len }) }
}

fn owned(fd: i32) -> File {
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    unsafe { File::from_raw_fd(fd) }
}

impl LoopGuest {
    /// Makes the guest on an open `/dev/kvm`.
    pub(super) fn new(kvm: &File, iterations: u32) -> Result<Self, Failed> {
        let version = ioctl(kvm, KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION")?;
        if version != 12 {
            return Err(Failed { step: "KVM_GET_API_VERSION", errno: libc::ENOTSUP });
        }
        let vm = owned(ioctl(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM")?);
        let memory = map(None, PAGE)?;
        let mut code = LOOP;
        code[2..6].copy_from_slice(&iterations.to_le_bytes());
        // SAFETY: the mapping is PAGE bytes long and writable, and the code is shorter.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), memory.at.cast(), code.len()) };
        let region = MemoryRegion { slot: 0, flags: 0, guest_phys_addr: CODE, memory_size: PAGE as u64, userspace_addr: memory.at as u64 };
        ioctl(&vm, KVM_SET_USER_MEMORY_REGION, std::ptr::from_ref(&region) as u64, "KVM_SET_USER_MEMORY_REGION")?;
        let vcpu = owned(ioctl(&vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU")?);
        let size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")?;
        let size =
            usize::try_from(size).ok().filter(|s| *s >= PAGE).ok_or(Failed { step: "KVM_GET_VCPU_MMAP_SIZE", errno: libc::EINVAL })?;
        let run = map(Some(&vcpu), size)?;
        let mut sregs: Sregs = [0; 0x138];
        ioctl(&vcpu, KVM_GET_SREGS, std::ptr::from_mut(&mut sregs) as u64, "KVM_GET_SREGS")?;
        // struct kvm_segment cs is first: base (8 bytes), limit (4), selector (2).
        sregs[..8].fill(0);
        sregs[12..14].fill(0);
        ioctl(&vcpu, KVM_SET_SREGS, std::ptr::from_ref(&sregs) as u64, "KVM_SET_SREGS")?;
        let mut regs: Regs = [0; 18];
        regs[RIP] = CODE;
        regs[RFLAGS] = 2;
        ioctl(&vcpu, KVM_SET_REGS, std::ptr::from_ref(&regs) as u64, "KVM_SET_REGS")?;
        Ok(Self { vcpu, _vm: vm, _memory: memory, run })
    }

    /// Runs until the loop is over or a signal comes.
    pub(super) fn run(&self) -> Result<Exit, Failed> {
        match ioctl(&self.vcpu, KVM_RUN, 0, "KVM_RUN") {
            Ok(_) => {}
            Err(Failed { errno: libc::EINTR, .. }) => return Ok(Exit::Interrupted),
            Err(failed) => return Err(failed),
        }
        // SAFETY: struct kvm_run has `exit_reason`, a u32, at offset 8; the mapping is at least a page.
        let reason = unsafe { self.run.at.cast::<u32>().add(2).read_volatile() };
        Ok(if reason == KVM_EXIT_HLT { Exit::Halted } else { Exit::Strange(reason) })
    }
}

/// Reads the processor's time stamp counter.
pub(super) fn counter() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and reads no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ends a blocking `KVM_RUN` of this thread after some time, by a signal that does nothing else.
///
/// A per-thread timer sends `SIGALRM` to the calling thread again and again (a single shot could
/// come before `KVM_RUN` is entered and be lost); the old handler is put back on drop.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: libc::timer_t,
    old: libc::sigaction,
}

extern "C" fn ignore(_signal: libc::c_int) {}

impl Alarm {
    /// Starts the timer: first after `millis`, then every 5 ms.
    pub(super) fn after(millis: u32) -> Result<Self, Failed> {
        // SAFETY: plain C structs for which all zeroes is a valid value; the handler touches nothing,
        // so it may run at any point; SA_RESTART is not set, so that KVM_RUN comes back with EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as *const () as usize;
            let mut old: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGALRM, &raw const action, &raw mut old) != 0 {
                return Err(Failed { step: "sigaction", errno: errno() });
            }
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGALRM;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::ptr::null_mut();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
                let failed = Failed { step: "timer_create", errno: errno() };
                libc::sigaction(libc::SIGALRM, &raw const old, std::ptr::null_mut());
                return Err(failed);
            }
            let alarm = Self { timer, old };
            let mut when: libc::itimerspec = std::mem::zeroed();
            when.it_value.tv_sec = i64::from(millis / 1000);
            when.it_value.tv_nsec = i64::from(millis % 1000) * 1_000_000;
            when.it_interval.tv_nsec = 5_000_000;
            if libc::timer_settime(alarm.timer, 0, &raw const when, std::ptr::null_mut()) != 0 {
                return Err(Failed { step: "timer_settime", errno: errno() });
            }
            Ok(alarm)
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and deleted once; then no signal of it can come any more and the
        // handler that was there before is put back.
        unsafe {
            libc::timer_delete(self.timer);
            libc::sigaction(libc::SIGALRM, &raw const self.old, std::ptr::null_mut());
        }
    }
}
