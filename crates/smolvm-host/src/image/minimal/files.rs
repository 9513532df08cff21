//! What lies in the `minimal` image beside busybox.

/// Every directory, parents first, with its mode.
pub(super) const DIRECTORIES: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("sbin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/profile.d", 0o755),
    ("home", 0o755),
    ("home/user", 0o755),
    ("lib", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/lib", 0o755),
    ("usr/share", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/local/sbin", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Whose things are not root's: path, uid, gid.
pub(super) const OWNERS: &[(&str, u32, u32)] = &[("home/user", 1000, 1000), ("etc/shadow", 0, 42)];

/// Every file with its mode and content. Hostname, hosts, resolver and machine id are written by the
/// agent at each start; they are here so that a look into the bare image finds them.
pub(super) const FILES: &[(&str, u32, &str)] = &[
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\n\
         daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
         bin:x:2:2:bin:/bin:/bin/false\n\
         sys:x:3:3:sys:/dev:/bin/false\n\
         mail:x:8:8:mail:/var/mail:/bin/false\n\
         www-data:x:33:33:www-data:/var/www:/bin/false\n\
         user:x:1000:1000:user:/home/user:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (
        "etc/group",
        0o644,
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nmail:x:8:\nkmem:x:15:\nwheel:x:10:root\n\
         www-data:x:33:\nshadow:x:42:\nusers:x:100:\nuser:x:1000:\nnogroup:x:65534:\n",
    ),
    (
        "etc/shadow",
        0o640,
        "root:*:19723:0:99999:7:::\ndaemon:*:19723:0:99999:7:::\nbin:*:19723:0:99999:7:::\nsys:*:19723:0:99999:7:::\n\
         mail:*:19723:0:99999:7:::\nwww-data:*:19723:0:99999:7:::\nuser:*:19723:0:99999:7:::\nnobody:*:19723:0:99999:7:::\n",
    ),
    (
        "etc/profile",
        0o644,
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         export PS1='\\u@\\h:\\w\\$ '\n\
         umask 022\n\
         for script in /etc/profile.d/*.sh; do\n\
         \x20   [ -r \"$script\" ] && . \"$script\"\n\
         done\n\
         unset script\n",
    ),
    ("etc/shells", 0o644, "/bin/sh\n/bin/ash\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/hostname", 0o644, "localhost\n"),
    ("etc/resolv.conf", 0o644, ""),
    ("etc/machine-id", 0o444, ""),
    ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
    (
        "etc/os-release",
        0o644,
        "NAME=\"smolvm minimal\"\nID=smolvm-minimal\nID_LIKE=busybox\nVERSION_ID=1\nPRETTY_NAME=\"smolvm minimal (busybox)\"\n",
    ),
    ("etc/protocols", 0o644, "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\nipv6-icmp 58 IPv6-ICMP\n"),
    (
        "etc/services",
        0o644,
        "ftp 21/tcp\nssh 22/tcp\ntelnet 23/tcp\nsmtp 25/tcp\ndomain 53/tcp\ndomain 53/udp\nbootps 67/udp\nbootpc 68/udp\ntftp 69/udp\n\
         http 80/tcp\nntp 123/udp\nhttps 443/tcp\nhttps 443/udp\n",
    ),
    ("etc/fstab", 0o644, ""),
    ("etc/issue", 0o644, ""),
];
