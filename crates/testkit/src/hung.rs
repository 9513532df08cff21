//! A mount behind which nobody answers: what a network file system is whose server went away.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Bytes of `struct fuse_in_header`, of `struct fuse_out_header`, and of the answer to the first request.
const ASKED: usize = 40;
const HEADER: u32 = 16;
const ANSWER: u32 = 64;

/// A FUSE mount whose server greets the kernel and never reads again. Whoever asks it waits, and can be killed.
#[derive(Debug)]
pub struct HungMount {
    path: PathBuf,
    /// As long as it is open the kernel hopes for an answer.
    device: Option<File>,
}

impl HungMount {
    /// Over the directory `path`, in the mount namespace of the calling thread; let it be a private one.
    pub fn new(path: &Path) -> Self {
        let mut device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = CString::new(options).expect("plain words");
        mount("hung", path, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).expect("mounting FUSE");
        greet(&mut device);
        Self { path: path.to_owned(), device: Some(device) }
    }
}

/// Answers the kernel's first request: protocol 7.31, and nothing beyond.
fn greet(device: &mut File) {
    let mut asked = vec![0; 64 << 10];
    let length = device.read(&mut asked).expect("the first request");
    assert!(length > ASKED, "a request of {length} bytes");
    let mut answer = Vec::new();
    answer.extend((HEADER + ANSWER).to_ne_bytes());
    answer.extend(0_i32.to_ne_bytes());
    // The request's number.
    answer.extend(&asked[8..16]);
    for word in [7_u32, 31, 0, 0, 0, 4096] {
        answer.extend(word.to_ne_bytes());
    }
    answer.resize((HEADER + ANSWER) as usize, 0);
    device.write_all(&answer).expect("the first answer");
}

impl Drop for HungMount {
    fn drop(&mut self) {
        // Whoever waits is let go with an error first, or detaching would wait for them.
        self.device = None;
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn who_asks_waits_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        crate::Netns::new().unwrap().enter(|| {
            let mount = HungMount::new(directory.path());
            let (tell, told) = channel();
            let path = directory.path().to_owned();
            std::thread::spawn(move || tell.send(std::fs::read_dir(path).is_ok()));
            assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "it answered");
            drop(mount);
            assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(false));
            assert!(std::fs::read_dir(directory.path()).is_ok());
        });
    }
}
