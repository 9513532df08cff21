//! Layers of a disk, which a hypervisor wrote that may have been somebody else's.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use smolvm_host::disk::{Chain, add_layer, merge_layers, qcow2};

use crate::input;

const SIZE: u64 = (64 << 20) + 4096;
/// So much of the input goes into each cluster, from its beginning.
const PIECE: usize = 512;

/// Whatever a header says, only one of ours passes; whatever tables say, what they are merged into is a layer, is no longer
/// than they are with its own tables, and merges into the same again.
pub(crate) fn layer(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    if which % 4 == 0 {
        if qcow2::fault_in_header(rest, SIZE).is_none() {
            assert!(rest.starts_with(b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0") && rest[72..80] == [0; 8]);
        }
        return;
    }
    let lowest = input::file("disk", b"");
    add_layer(&lowest, 1, SIZE).expect("an empty layer in memory");
    let chain = Chain::read(&lowest).expect("it was made");
    let file = OpenOptions::new().write(true).open(chain.path(1)).expect("it was made");
    for (piece, cluster) in rest.chunks(PIECE).zip(1..) {
        file.write_all_at(piece, cluster * qcow2::CLUSTER).expect("a file in memory");
    }
    let length = file.metadata().expect("it is open").len();
    if merge_layers(&chain, &[1], SIZE).is_err() {
        return;
    }
    let once = fs::read(chain.path(1)).expect("it was merged");
    assert_eq!(qcow2::fault_in_header(&once, SIZE), None);
    // Two more for L2, three for what every layer has, and L1.
    assert!(once.len() as u64 <= length + 6 * qcow2::CLUSTER, "{} of {length}", once.len());
    merge_layers(&chain, &[1], SIZE).expect("what was merged can be");
    assert!(fs::read(chain.path(1)).expect("it was merged") == once);
}
