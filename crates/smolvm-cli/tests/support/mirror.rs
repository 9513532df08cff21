//! A mirror of a Debian that is just large enough: what `setup` takes from the host's apt, signed, in a directory.
//!
//! ```text
//!   host's programs ─► base ─┐
//!   a header, a note ─► linux-image-… ─┼─ dpkg-deb ─► *.deb ─► Packages ─► Release ─ gpg ─► InRelease
//!   prepared `minimal` ─► busybox-static ─┘                                          └► the keyring
//!   private host:   /etc/apt and Debian's keyring are laid over by these
//! ```
//!
//! apt, dpkg and mmdebstrap are the host's own, and do all they always do: verify, download, unpack, configure. Only
//! what they install is small, so that a whole `setup` takes two seconds and can be had a hundred times. The kernel
//! does not boot; it is what `setup` looks at before it publishes one.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use testkit::{Netns, SealedEnv, prerequisite};

/// Where products look for Debian's keys; the first that is there is read.
const KEYRINGS: [&str; 2] = ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];
const RELEASE: &str = "6.1.0-0-cloud-amd64";
/// What dpkg wants to find where it installs, and a shell.
const PROGRAMS: [&str; 11] = [
    "/usr/bin/dpkg",
    "/usr/bin/dpkg-deb",
    "/usr/bin/dpkg-query",
    "/usr/bin/dpkg-split",
    "/usr/bin/diff",
    "/usr/bin/env",
    "/usr/bin/find",
    "/usr/bin/rm",
    "/usr/bin/sh",
    "/usr/bin/tar",
    "/usr/sbin/start-stop-daemon",
];
/// What a guest needs of a kernel: this one has it built in.
const BUILT_IN: [&str; 11] = [
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "ext4",
    "overlay",
    "failover",
    "net_failover",
    "virtio_net",
    "af_packet",
];
/// What the image `debian` is made of beside what Debian requires: here they are empty.
const EMPTY: [&str; 7] = ["apt", "python3", "git", "curl", "ca-certificates", "procps", "netbase"];

/// Makes the private host's apt one that has nothing but the mirror.
pub(crate) fn lay_over(host: &Netns) {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let mirror = MADE.get_or_init(made);
    host.bind_file(&mirror.join("apt"), Path::new("/etc/apt")).unwrap();
    for keyring in KEYRINGS.map(Path::new).into_iter().filter(|path| path.exists()) {
        host.bind_file(&mirror.join("keyring.gpg"), keyring).unwrap();
    }
}

/// The mirror that all tests share, made by the first one. It is named after what makes it, so that it is never an old one.
fn made() -> PathBuf {
    prerequisite::programs(&["gpg", "gpgconf", "gpg-agent", "dpkg-deb", "debugfs", "mmdebstrap"]);
    let mut hasher = DefaultHasher::new();
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Its own place stands in it.
    (include_str!("mirror.rs"), codename(), all).hash(&mut hasher);
    let wanted = all.join(format!("mirror-{:016x}", hasher.finish()));
    if !wanted.exists() {
        let own = tempfile::Builder::new().prefix("mirror-of-").tempdir_in(all).unwrap();
        let root = own.path().join("mirror");
        Maker { env: SealedEnv::new(), root: root.clone() }.make(&wanted);
        // Another test may have been quicker: its mirror is as good.
        if std::fs::rename(&root, &wanted).is_err() {
            assert!(wanted.exists(), "the mirror cannot be moved to {}", wanted.display());
        }
    }
    wanted
}

/// The release of this host, which is the one that is asked for.
fn codename() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).expect("a Debian with a code name");
    line.trim_matches('"').to_owned()
}

struct Maker {
    env: SealedEnv,
    root: PathBuf,
}

impl Maker {
    fn make(&self, known_as: &Path) {
        let codename = codename();
        let index = format!("dists/{codename}/main/binary-amd64");
        for directory in ["pool", "apt/apt.conf.d", "apt/sources.list.d", &index] {
            std::fs::create_dir_all(self.root.join(directory)).unwrap();
        }
        let mut packages = vec![self.base(), self.kernel(), self.busybox()];
        packages.push(self.package("linux-image-cloud-amd64", &format!("Depends: linux-image-{RELEASE}\n"), |_| {}));
        packages.extend(EMPTY.map(|name| self.package(name, "Priority: optional\n", |_| {})));
        let packages = packages.concat();
        let listed = self.root.join(&index).join("Packages");
        std::fs::write(&listed, &packages).unwrap();
        self.sign(&codename, &format!("{} {} main/binary-amd64/Packages", self.sha256(&listed), packages.len()));
        let source =
            format!("Types: deb\nURIs: copy:{}\nSuites: {codename}\nComponents: main\nSigned-By: {}\n", known_as.display(), KEYRINGS[0]);
        std::fs::write(self.root.join("apt/sources.list.d/debian.sources"), source).unwrap();
    }

    /// dpkg and what it calls, with their libraries, at their places: enough to install the others.
    fn base(&self) -> String {
        self.package("base", "Essential: yes\nPriority: required\n", |tree| {
            let linked = self.env.cmd("ldd").args(&PROGRAMS).run();
            let libraries = linked.assert_ok().stdout.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
            for path in libraries.chain(PROGRAMS).collect::<BTreeSet<_>>() {
                let path = Path::new(path);
                // Its own name, in the directory that this really is.
                let directory = std::fs::canonicalize(path.parent().unwrap()).unwrap();
                let directory = tree.join(directory.strip_prefix("/").unwrap());
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::copy(path, directory.join(path.file_name().unwrap())).unwrap();
            }
            for merged in ["bin", "sbin", "lib", "lib64"] {
                std::os::unix::fs::symlink(format!("usr/{merged}"), tree.join(merged)).unwrap();
            }
            for directory in ["etc", "proc", "sys", "var/log"] {
                std::fs::create_dir_all(tree.join(directory)).unwrap();
            }
            program(&tree.join("usr/sbin/ldconfig"), b"#!/bin/sh\n");
            std::fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
            std::fs::write(tree.join("etc/group"), "root:x:0:\n").unwrap();
        })
    }

    /// A kernel of a header and a note. It needs no modules.
    fn kernel(&self) -> String {
        self.package(&format!("linux-image-{RELEASE}"), "", |tree| {
            let modules = tree.join("lib/modules").join(RELEASE);
            for directory in [&tree.join("boot"), &modules] {
                std::fs::create_dir_all(directory).unwrap();
            }
            std::fs::write(tree.join(format!("boot/vmlinuz-{RELEASE}")), bzimage(&pvh_kernel())).unwrap();
            let built_in = BUILT_IN.map(|name| format!("kernel/{name}.ko\n"));
            std::fs::write(modules.join("modules.builtin"), built_in.concat()).unwrap();
        })
    }

    /// The program that the prepared image has.
    fn busybox(&self) -> String {
        self.package("busybox-static", "", |tree| {
            let images = prerequisite::test_home().join("cache/images");
            let digest = std::fs::read_to_string(images.join("by-name/minimal")).unwrap();
            let image = images.join(digest.trim().trim_start_matches("sha256:")).join("image.ext4");
            std::fs::create_dir(tree.join("bin")).unwrap();
            let dump = format!("dump /bin/busybox {}", tree.join("bin/busybox").display());
            self.env.cmd("debugfs").args(&["-R", &dump]).arg(image).run().assert_ok();
        })
    }

    /// Packs what `fill` puts into a tree, and gives the entry of the index.
    fn package(&self, name: &str, fields: &str, fill: impl FnOnce(&Path)) -> String {
        let tree = self.env.scratch().join(name);
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\nDescription: for tests\n{fields}");
        std::fs::write(tree.join("DEBIAN/control"), &control).unwrap();
        fill(&tree);
        let deb = format!("pool/{name}_1_amd64.deb");
        let path = self.root.join(&deb);
        self.env.cmd("dpkg-deb").args(&["--root-owner-group", "-Znone", "--build"]).arg(&tree).arg(&path).run().assert_ok();
        let size = std::fs::metadata(&path).unwrap().len();
        format!("{control}Filename: {deb}\nSize: {size}\nSHA256: {}\n\n", self.sha256(&path))
    }

    /// Signs the one index of the release with a key that is thrown away.
    fn sign(&self, codename: &str, index: &str) {
        let release = self.env.scratch().join("Release");
        let date = self.env.cmd("date").arg("-Ru").run().stdout;
        let text = format!(
            "Origin: Debian\nLabel: Debian\nSuite: stable\nCodename: {codename}\nDate: {date}Architectures: amd64\nComponents: main\nSHA256:\n {index}\n"
        );
        std::fs::write(&release, text).unwrap();
        let home = self.env.scratch().join("gpg");
        std::fs::create_dir(&home).unwrap();
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).unwrap();
        let gpg = |args: &[&str]| {
            let cmd = self.env.cmd("gpg").args(&["--batch", "--quiet", "--homedir"]).arg(&home);
            cmd.args(args).run().assert_ok();
        };
        let out = |path: &str| self.root.join(path).to_str().unwrap().to_owned();
        gpg(&["--passphrase", "", "--quick-generate-key", "tests of smolvm", "ed25519", "sign", "never"]);
        gpg(&["--output", &out("keyring.gpg"), "--export"]);
        gpg(&["--output", &out(&format!("dists/{codename}/InRelease")), "--clearsign", release.to_str().unwrap()]);
        self.env.cmd("gpgconf").args(&["--homedir"]).arg(&home).args(&["--kill", "all"]).run().assert_ok();
    }

    fn sha256(&self, path: &Path) -> String {
        let ran = self.env.cmd("sha256sum").arg(path).run();
        ran.assert_ok().stdout.split_whitespace().next().unwrap().to_owned()
    }
}

fn program(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// An executable of one segment: the note that says where a hypervisor enters.
fn pvh_kernel() -> Vec<u8> {
    let note: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01";
    let mut file = vec![0; 64 + 56];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // An executable for x86-64; its table of segments is at 64 and has one entry of 56 bytes.
    for (at, value) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1)] {
        file[at] = value;
    }
    // A note, at 120, of this length.
    for (at, value) in [(64, 4), (64 + 8, 120), (64 + 32, u8::try_from(note.len()).unwrap())] {
        file[at] = value;
    }
    file.extend(note);
    file
}

/// Packed as kernels are, but for the packing: boot sector, setup header, payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 3 * 512];
    image[0x1f1] = 2;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend(payload);
    image
}
