//! The script that turns what mmdebstrap made into a guest's tree.

/// Run by `sh -eu` in the build's directory, as root or as what stands for root in a user namespace.
/// Prints the tree's blocks (of 4 KiB) and inodes.
///
/// Removed is what is the host's (name, resolver) and what the next `apt-get update` makes again;
/// machine id, hosts and resolver are written by the agent at every start.
pub(super) const FINISH: &str = r"
if [ -f rootfs.tar ]; then
    mkdir rootfs
    tar --extract --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' --file=rootfs.tar --directory=rootfs
    rm rootfs.tar
fi
cd rootfs
rm -rf dev run tmp var/tmp var/log/apt var/cache/apt/archives var/lib/apt/lists
mkdir -m 0755 dev run var/cache/apt/archives var/cache/apt/archives/partial var/lib/apt/lists var/lib/apt/lists/partial
mkdir -m 1777 tmp var/tmp
rm -f var/cache/apt/*.bin var/cache/debconf/*-old var/lib/dpkg/*-old var/log/*.log var/cache/ldconfig/aux-cache
rm -f etc/.pwd.lock etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/apt/sources.list etc/apt/sources.list.d/*
rm -f etc/apt/apt.conf.d/99mmdebstrap
grep -v force-unsafe-io etc/dpkg/dpkg.cfg.d/99mmdebstrap > etc/dpkg/dpkg.cfg.d/smolvm-slim
rm etc/dpkg/dpkg.cfg.d/99mmdebstrap
cp ../debian.sources etc/apt/sources.list.d/debian.sources
chmod 0644 etc/apt/sources.list.d/debian.sources
rm -f etc/hostname etc/hosts etc/resolv.conf etc/machine-id var/lib/dbus/machine-id
printf 'localhost\n' > etc/hostname
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > etc/hosts
: > etc/resolv.conf
: > etc/machine-id
chmod 0444 etc/machine-id
cd ..
set -- $(du -s -B4096 rootfs) $(du -s --inodes rootfs)
echo $1 $3
";
