//! What the host says on stream 0.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex::Entropy;

/// Where a message says what it is.
const TAG: &str = "type";

/// Host to agent. All of generation 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// Who the guest is; answered by `ready` or `failed`. Once per boot; a later one is answered by `ready` as it was.
    Boot(BootConfig),
    /// Do everything that is the same for all guests of a kind, and nothing that is not; answered by `parked` or `failed`.
    /// The machine is then stopped, and every fork of it is greeted by a host side of its own.
    Park {
        /// Whether there is a network device to be found.
        network: bool,
        /// Whether the data disk is as empty as that of every fork will be: then it is mounted, and the root put together.
        fresh_disk: bool,
        /// Commands that are run before, so that what they read is in every fork's memory; only with a fresh disk.
        #[serde(default)]
        rehearse: Vec<Vec<String>>,
    },
    /// The time again, for a guest whose clock was found off; answered by `clock`.
    Clock {
        /// The host's clock when it sent the message.
        time: UnixTime,
    },
    /// Come to rest, so that the machine can be copied as it stands: answered by `frozen`, behind which no process runs and
    /// nothing is sent until `clock` or `restore` comes. The host sends nothing between this and that, either: so both sides of a copy begin with
    /// a line on which no message is half way.
    Freeze {
        /// Whether all that was written is to be on the disk first.
        #[serde(default)]
        sync: bool,
        /// Comes back in the answer: one that is late must not be taken for that to a later request.
        #[serde(default)]
        seq: u64,
    },
    /// The first word to a copy of a frozen guest: who it is from now on; answered by `ready` or `failed`. What runs in it
    /// goes on, but for the commands whose host side is not this one.
    Restore(BootConfig),
    /// Answered by `pong` with the same number.
    Ping {
        /// Anything.
        seq: u64,
    },
    /// End all processes, sync, answer `halted`, power off.
    Shutdown {
        /// Time between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// A type this build does not know; ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Serialize for HostMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Derived, as `remote` leaves it.
        Self::serialize(self, serializer)
    }
}

/// The two long ones are read as they come, if their tag comes first, as it does from everybody who derives it. What is derived reads a message
/// with an unknown tag into memory and then once more from there: two readers, and under TCG both must be translated before a copy goes on.
impl<'de> Deserialize<'de> for HostMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tagged;

        impl<'de> Visitor<'de> for Tagged {
            type Value = HostMessage;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message with a type")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HostMessage, A::Error> {
                let mut fields = serde_json::Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = if key == TAG && fields.is_empty() {
                        let tag: String = map.next_value()?;
                        match tag.as_str() {
                            "boot" => return BootConfig::deserialize(MapAccessDeserializer::new(map)).map(HostMessage::Boot),
                            "restore" => return BootConfig::deserialize(MapAccessDeserializer::new(map)).map(HostMessage::Restore),
                            _ => tag.into(),
                        }
                    } else {
                        map.next_value()?
                    };
                    if fields.insert(key, value).is_some() {
                        return Err(A::Error::custom("a field comes twice"));
                    }
                }
                HostMessage::deserialize(serde_json::Value::Object(fields)).map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_map(Tagged)
    }
}

/// Everything that makes one guest differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// The sandbox's id.
    pub hostname: String,
    /// For `/etc/machine-id`: 32 lower-case hex digits.
    pub machine_id: String,
    /// The host's clock when it sent the message.
    pub time: UnixTime,
    /// Credited to the kernel's generator, which is then reseeded.
    pub entropy: Entropy,
    /// Configures `eth0`; without it no network module is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    /// Whether there is a disk with `serial=data` for the upper layer; without one it is memory.
    #[serde(default)]
    pub data_disk: bool,
    /// Whether the image's own init is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
}

/// How the image's own init is treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitConfig {
    /// The signal that asks it to power off; without one the agent knows what is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
}

/// A moment of the host's real-time clock, in two numbers that every JSON reader keeps whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixTime {
    /// Whole seconds since 1970.
    pub secs: u64,
    /// And nanoseconds, below 10^9.
    pub nanos: u32,
}

/// A static address on a point-to-point link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// `02:…`, set from inside the guest; the host enforces it.
    pub mac: String,
    /// The guest's IPv4 address.
    pub address: String,
    /// Bits of the network, mostly 32.
    pub prefix: u8,
    /// Default gateway, reached on the link whatever the prefix.
    pub gateway: String,
    /// Name servers for `/etc/resolv.conf`.
    #[serde(default)]
    pub dns: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{decode, encode};

    fn config() -> BootConfig {
        BootConfig {
            hostname: "copy".to_owned(),
            machine_id: "0".repeat(32),
            time: UnixTime { secs: 5, nanos: 7 },
            entropy: Entropy::new(vec![7; 64]).unwrap(),
            network: Some(NetworkConfig {
                mac: "02:00:00:00:00:01".to_owned(),
                address: "10.0.0.2".to_owned(),
                prefix: 32,
                gateway: "10.0.0.1".to_owned(),
                dns: vec!["10.0.0.1".to_owned()],
            }),
            data_disk: true,
            init: Some(InitConfig { stop_signal: Some(15) }),
        }
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        let all = [
            HostMessage::Boot(config()),
            HostMessage::Restore(BootConfig { network: None, init: None, ..config() }),
            HostMessage::Park { network: true, fresh_disk: true, rehearse: vec![vec!["true".to_owned()]] },
            HostMessage::Clock { time: UnixTime { secs: 1, nanos: 2 } },
            HostMessage::Freeze { sync: true, seq: 3 },
            HostMessage::Ping { seq: u64::MAX },
            HostMessage::Shutdown { grace_ms: 9 },
        ];
        for message in all {
            let payload = encode(&message).unwrap();
            assert!(payload.starts_with(br#"{"type":""#), "the tag comes first");
            assert_eq!(decode::<HostMessage>(&payload).unwrap(), message);
        }
    }

    #[test]
    fn the_tag_may_stand_anywhere_and_other_fields_beside_the_known_ones() {
        let text = serde_json::to_string(&config()).unwrap();
        let late = text.replacen('{', r#"{"new":[{}],"#, 1).replace(r#""data_disk""#, r#""type":"boot","data_disk""#);
        assert_eq!(decode::<HostMessage>(late.as_bytes()).unwrap(), HostMessage::Boot(config()));
        let early = text.replacen('{', r#"{"type":"restore","new":[{}],"#, 1);
        assert_eq!(decode::<HostMessage>(early.as_bytes()).unwrap(), HostMessage::Restore(config()));
        assert_eq!(decode::<HostMessage>(br#"{"seq":4,"type":"ping"}"#).unwrap(), HostMessage::Ping { seq: 4 });
        assert_eq!(decode::<HostMessage>(br#"{"type":"dance","to":["a","b"]}"#).unwrap(), HostMessage::Unknown);
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bad in [
            "",
            "5",
            "[]",
            "{}",
            r#"{"type":5}"#,
            r#"{"type":"boot"}"#,
            r#"{"type":"ping","seq":"4"}"#,
            r#"{"type":"ping","seq":4,"seq":5}"#,
            r#"{"type":"ping","type":"ping","seq":4}"#,
            r#"{"seq":4}"#,
            r#"{"type":"ping","seq":4"#,
        ] {
            assert!(decode::<HostMessage>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
