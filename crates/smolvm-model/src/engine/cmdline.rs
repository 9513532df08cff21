//! The guest kernel's command line: constant per machine shape, every word with its reason.
//!
//! Nothing of a sandbox's identity is here (it arrives over the guest link). What is here was kept
//! because leaving it out cost time or reliability when measured; `docs/jail.md` has the numbers and
//! argues the words that concern security.

use super::Accelerator;

/// Words that hold under every accelerator.
const COMMON: &[&str] = &[
    // Kernel messages and the agent's last words; the monitor keeps them in console.log.
    "console=ttyS0",
    // The console costs a trip out of the guest per character: errors only.
    "quiet",
    "loglevel=4",
    // A panic ends the machine at once (QEMU runs with -no-reboot) instead of hanging until a deadline.
    "panic=-1",
    // Triple fault: works on every machine, asks no device.
    "reboot=t",
    // Self tests of the crypto library: 60 ms under TCG for code that the distribution tested.
    "cryptomgr.notests",
    // The machine has one serial port; looking for three more is 20 ms of port I/O.
    "8250.nr_uarts=1",
    // There is no keyboard controller: do not wait for one.
    "i8042.noaux",
    "i8042.nokbd",
    "i8042.nopnp",
    // A guest whose processor is not scheduled for a while is no lockup.
    "nowatchdog",
    // The modules that come with a policy of their own or work without one. The others cost every
    // system call a few checks that allow everything, since nobody loads a policy for them.
    "lsm=landlock,yama",
    // Grace periods: waiting for all of one CPU takes longer than asking it.
    "rcupdate.rcu_expedited=1",
];

/// Steps of the kernel's start that do nothing for a guest of this kind, and cost what the comment says under TCG.
const SKIPPED: &[&str] = &[
    // A self test of a key derivation that only trusted-key hardware uses; `notests` does not reach it: 30 ms.
    "crypto_kdf108_init",
    // The distribution's module keys: 14 ms, and then a public key operation per module. The modules
    // come from the same package, in an initramfs of ours, and root in the guest may load any module with or without.
    "load_system_certificate_list",
    // Measurement of executed files into a TPM, which there is none: 13 ms.
    "init_ima",
    // The battery clock's driver; the agent is told the time: 13 ms.
    "cmos_init",
    // Suspend to disk, legacy VGA arbitration: 8 ms each.
    "snapshot_device_init",
    "vga_arb_device_init",
    // There is no PCI bus; looking for one ends in an error on the console.
    "pci_arch_init",
];

/// Words for a guest whose clock and interrupts are translated.
const TCG: &[&str] = &[
    // The guest reads the host's counter, which the host already found stable.
    "tsc=reliable",
    // The timer check counts on interrupts arriving in real time, which a translator does not promise.
    "no_timer_check",
    // Rewriting 9,000 lock prefixes for a single processor makes the translator start over on every
    // page it touches: 100 ms. For one processor it translates a locked instruction like any other.
    "noreplace-smp",
];

/// Puts the command line together.
///
/// `tsc_khz` is the host's measured time stamp counter frequency. Under TCG the guest reads that
/// counter but can only calibrate it against an emulated interval timer; on a busy host the
/// calibration fails, the kernel falls back to counting timer interrupts that microvm does not route
/// to it, and hangs (7 of 28 boots). Told the frequency it does not calibrate.
pub fn kernel_command_line(accelerator: Accelerator, tsc_khz: Option<u32>) -> String {
    let mut words: Vec<String> = COMMON.iter().map(|w| (*w).to_owned()).collect();
    words.push(format!("initcall_blacklist={}", SKIPPED.join(",")));
    match accelerator {
        Accelerator::Kvm => {}
        Accelerator::Tcg => {
            words.extend(TCG.iter().map(|w| (*w).to_owned()));
            words.extend(tsc_khz.map(|khz| format!("tsc_early_khz={khz}")));
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_told_only_where_the_guest_reads_the_hosts() {
        assert!(kernel_command_line(Accelerator::Tcg, Some(2_596_122)).ends_with(" tsc_early_khz=2596122"));
        assert!(!kernel_command_line(Accelerator::Kvm, Some(2_596_122)).contains("tsc"));
    }

    #[test]
    fn it_fits_the_kernel() {
        // COMMAND_LINE_SIZE on x86 is 2048.
        assert!(kernel_command_line(Accelerator::Tcg, Some(u32::MAX)).len() < 1024);
    }
}
