//! QEMU's control socket: one JSON object per line in each direction.
//!
//! Two layers. [`QmpStream`] turns bytes into messages and never blocks: a poll loop feeds it what it
//! read. [`Qmp`] sits on a socket and waits, every time with a deadline: for whoever has nothing else
//! to do. Events may come between a command and its reply; both layers keep them in order.
//!
//! Invariants: a line is at most [`LINE_CAP`] bytes, or the connection is given up; a QEMU that dies
//! in the middle of a reply is [`QmpError::Closed`], never a hang; replies are matched by id.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::fdpass::send_with;

/// Longest line that is taken: the longest real one (`query-qmp-schema`) is about 200 KB.
pub const LINE_CAP: usize = 1 << 20;
/// Events kept for a blocking client that does not collect them.
const EVENTS_CAP: usize = 256;

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub enum QmpMessage {
    /// The first line of a connection.
    Greeting,
    /// A command succeeded.
    Return {
        /// The id the command carried.
        id: Option<u64>,
        /// Its answer.
        value: Value,
    },
    /// A command failed.
    Error {
        /// The id the command carried; a line QEMU could not read has none.
        id: Option<u64>,
        /// QEMU's words.
        description: String,
    },
    /// Something happened.
    Event {
        /// `SHUTDOWN`, `STOP`, `RESUME`, …
        name: String,
        /// What goes with it.
        data: Map<String, Value>,
    },
}

/// Why the control socket did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// QEMU closed the connection, or died.
    #[error("the hypervisor closed its control socket")]
    Closed,
    /// No answer in time.
    #[error("the hypervisor did not answer {command} within {} ms", after.as_millis())]
    TimedOut {
        /// What was asked.
        command: String,
        /// How long was waited.
        after: Duration,
    },
    /// The socket failed.
    #[error("the hypervisor's control socket failed")]
    Io(#[from] std::io::Error),
    /// QEMU said no.
    #[error("the hypervisor refused {command}: {description}")]
    Refused {
        /// What was asked.
        command: String,
        /// QEMU's words.
        description: String,
    },
    /// What came is not QMP.
    #[error("the hypervisor's control socket carries {found}, not QMP")]
    Garbage {
        /// What was found wrong.
        found: Garbage,
    },
}

/// How bytes can fail to be QMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// A line beyond the cap.
    #[error("a line of more than {LINE_CAP} bytes")]
    LongLine,
    /// A line that is no JSON object of a known form.
    #[error("a line that is no message")]
    NoMessage,
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub struct QmpStream {
    partial: Vec<u8>,
    /// What happened while somebody waited for something else.
    untaken: Vec<QmpMessage>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    qmp: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Map<String, Value>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl QmpStream {
    /// Takes what was read and gives the messages that are complete with it, after the events that came before and nobody took.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<QmpMessage>, Garbage> {
        let mut messages = std::mem::take(&mut self.untaken);
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = &after[1..];
            if self.partial.len() + line.len() > LINE_CAP {
                return Err(Garbage::LongLine);
            }
            let message = if self.partial.is_empty() {
                parse(line)?
            } else {
                self.partial.extend_from_slice(line);
                let message = parse(&self.partial)?;
                self.partial.clear();
                message
            };
            messages.extend(message);
        }
        if self.partial.len() + rest.len() > LINE_CAP {
            return Err(Garbage::LongLine);
        }
        self.partial.extend_from_slice(rest);
        Ok(messages)
    }
}

fn parse(line: &[u8]) -> Result<Option<QmpMessage>, Garbage> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let Ok(line) = serde_json::from_slice::<Line>(line) else { return Err(Garbage::NoMessage) };
    Ok(Some(match line {
        Line { event: Some(name), data, .. } => QmpMessage::Event { name, data },
        Line { error: Some(refusal), id, .. } => QmpMessage::Error { id, description: refusal.desc },
        Line { value: Some(value), id, .. } => QmpMessage::Return { id, value },
        Line { qmp: Some(_), .. } => QmpMessage::Greeting,
        // `"return": null` parses as None; QEMU writes `{}` for nothing, so this is no message.
        Line { .. } => return Err(Garbage::NoMessage),
    }))
}

/// A command as the line to be written.
pub fn command(name: &str, arguments: Option<Value>, id: u64) -> Vec<u8> {
    let mut object = json!({ "execute": name, "id": id });
    if let (Some(arguments), Some(object)) = (arguments, object.as_object_mut()) {
        object.insert("arguments".to_owned(), arguments);
    }
    let mut line = object.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// A client that waits for its answers.
#[derive(Debug)]
pub struct Qmp {
    socket: UnixStream,
    stream: QmpStream,
    arrived: VecDeque<QmpMessage>,
    events: VecDeque<QmpMessage>,
    next_id: u64,
    /// What was begun.
    unanswered: Vec<(u64, &'static str)>,
    patience: Duration,
}

impl Qmp {
    /// Takes over a session that is open, as a launched hypervisor's is.
    pub fn resume(socket: UnixStream, patience: Duration) -> Self {
        Self {
            socket,
            stream: QmpStream::default(),
            arrived: VecDeque::new(),
            events: VecDeque::new(),
            next_id: 1,
            unanswered: Vec::new(),
            patience,
        }
    }

    /// Waits for the greeting and opens the session; `patience` bounds this and every later command.
    pub fn open(socket: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        let mut qmp = Self::resume(socket, patience);
        let deadline = Instant::now() + patience;
        while qmp.next(deadline, "the greeting")? != QmpMessage::Greeting {}
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    /// Runs one command and gives its answer.
    pub fn execute(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let deadline = Instant::now() + self.patience;
        self.write(&command(name, arguments, id), deadline, name)?;
        self.answer(id, name, deadline)
    }

    /// Waits for the answer to the command with this number.
    fn answer(&mut self, id: u64, name: &str, deadline: Instant) -> Result<Value, QmpError> {
        loop {
            match self.next(deadline, name)? {
                QmpMessage::Return { id: Some(of), value } if of == id => return Ok(value),
                QmpMessage::Error { id: of, description } if of.is_none_or(|of| of == id) => {
                    return Err(QmpError::Refused { command: name.to_owned(), description });
                }
                event @ QmpMessage::Event { .. } => {
                    if self.events.len() == EVENTS_CAP {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
                // The answer to a command that was given up on.
                QmpMessage::Return { .. } | QmpMessage::Error { .. } | QmpMessage::Greeting => {}
            }
        }
    }

    /// Sends a command and does not wait for its answer, which [`Qmp::finish`] does.
    pub fn begin(&mut self, name: &'static str, arguments: Option<Value>) -> Result<(), QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        self.unanswered.push((id, name));
        self.write(&command(name, arguments, id), Instant::now() + self.patience, name)
    }

    /// Waits for the answers to all that was begun; the first that failed is told, and the others are waited for all the same.
    pub fn finish(&mut self) -> Result<(), QmpError> {
        let deadline = Instant::now() + self.patience;
        let mut outcome = Ok(());
        for (id, name) in std::mem::take(&mut self.unanswered) {
            let answer = self.answer(id, name, deadline).map(drop);
            match answer {
                Err(QmpError::Refused { .. }) | Ok(()) => outcome = outcome.and(answer),
                Err(lost) => return Err(lost),
            }
        }
        outcome
    }

    /// Hands over a descriptor, which later commands call `name`.
    pub fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        // A blank before the command carries the descriptor: QEMU keeps it until it is asked for.
        send_with(&self.socket, b" ", Some(fd), SendFlags::empty())?;
        self.execute("getfd", Some(json!({ "fdname": name }))).map(drop)
    }

    /// Ends the session here; whoever goes on reads what comes next with the stream, and first the events that nobody has taken. (Answers that
    /// nobody waited for are none of theirs: they count their own commands.)
    pub fn into_stream(self) -> QmpStream {
        let events = self.events.into_iter().chain(self.arrived).filter(|message| matches!(message, QmpMessage::Event { .. }));
        QmpStream { untaken: events.collect(), ..self.stream }
    }

    /// The oldest event that nobody took yet; waits up to the client's patience for one.
    pub fn event(&mut self) -> Result<(String, Map<String, Value>), QmpError> {
        let deadline = Instant::now() + self.patience;
        loop {
            let message = match self.events.pop_front() {
                Some(event) => event,
                None => self.next(deadline, "an event")?,
            };
            if let QmpMessage::Event { name, data } = message {
                return Ok((name, data));
            }
        }
    }

    fn next(&mut self, deadline: Instant, command: &str) -> Result<QmpMessage, QmpError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Ok(message);
            }
            self.socket.set_read_timeout(Some(self.left(deadline, command)?))?;
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(n) => self.arrived.extend(self.stream.feed(&chunk[..n]).map_err(|found| QmpError::Garbage { found })?),
                Err(e) => self.judge(e)?,
            }
        }
    }

    fn write(&mut self, line: &[u8], deadline: Instant, command: &str) -> Result<(), QmpError> {
        let mut rest = line;
        while !rest.is_empty() {
            self.socket.set_write_timeout(Some(self.left(deadline, command)?))?;
            match self.socket.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) => self.judge(e)?,
            }
        }
        Ok(())
    }

    /// Time until the deadline, never the zero that would mean "for ever".
    fn left(&self, deadline: Instant, command: &str) -> Result<Duration, QmpError> {
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            Some(_) | None => Err(QmpError::TimedOut { command: command.to_owned(), after: self.patience }),
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a step of the client")]
    fn judge(&self, error: std::io::Error) -> Result<(), QmpError> {
        match error.kind() {
            // The deadline is looked at before the next try.
            ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(QmpError::Closed),
            _ => Err(QmpError::Io(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const GREETING: &[u8] = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;

    fn peer(script: impl FnOnce(UnixStream) + Send + 'static) -> (UnixStream, thread::JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, thread::spawn(move || script(theirs)))
    }

    fn line(socket: &mut UnixStream) -> Value {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while socket.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            bytes.push(byte[0]);
        }
        serde_json::from_slice(&bytes).unwrap()
    }

    fn open(socket: &mut UnixStream) {
        socket.write_all(GREETING).unwrap();
        socket.write_all(b"\r\n").unwrap();
        assert_eq!(line(socket)["execute"], "qmp_capabilities");
        socket.write_all(b"{\"return\": {}, \"id\": 1}\r\n").unwrap();
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn messages_in_any_cut_are_the_same() {
        let mut text = GREETING.to_vec();
        text.extend_from_slice(
            b"\r\n{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true}}\n",
        );
        text.extend_from_slice(
            b"\n{\"return\": {\"status\": \"running\"}, \"id\": 9}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n",
        );
        let whole = QmpStream::default().feed(&text).unwrap();
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[2], QmpMessage::Return { id: Some(9), value: json!({"status": "running"}) });
        assert_eq!(whole[3], QmpMessage::Error { id: None, description: "no".to_owned() });
        for cut in 1..text.len() {
            let mut stream = QmpStream::default();
            let mut messages = stream.feed(&text[..cut]).unwrap();
            messages.extend(stream.feed(&text[cut..]).unwrap());
            assert_eq!(messages, whole, "cut at {cut}");
        }
    }

    #[test]
    fn endless_lines_and_nonsense_are_refused() {
        let mut stream = QmpStream::default();
        let chunk = vec![b'x'; 64 << 10];
        let found = (0..32).find_map(|_| stream.feed(&chunk).err());
        assert_eq!(found, Some(Garbage::LongLine));
        assert!(stream.partial.len() <= LINE_CAP);
        for bad in ["hello\n", "[]\n", "{}\n", "{\"return\": 1, \"id\": -1}\n", "\u{0}\n"] {
            assert_eq!(QmpStream::default().feed(bad.as_bytes()), Err(Garbage::NoMessage), "{bad:?}");
        }
    }

    #[test]
    fn whoever_goes_on_hears_what_happened_before() {
        let (socket, peer) = peer(|mut s| {
            open(&mut s);
            assert_eq!(line(&mut s)["execute"], "go");
            // All in one: what comes behind the answer is read with it.
            s.write_all(b"{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": 2}\n{\"return\": {}, \"id\": 9}\n{\"event\": \"RESUME\"}\n{\"ev")
                .unwrap();
        });
        let mut qmp = Qmp::open(socket, PATIENCE).unwrap();
        qmp.execute("go", None).unwrap();
        peer.join().unwrap();
        let mut stream = qmp.into_stream();
        let names = |messages: Vec<QmpMessage>| {
            let name = |message| if let QmpMessage::Event { name, .. } = message { name } else { panic!("{message:?}") };
            messages.into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(stream.feed(b"").unwrap()), ["STOP", "RESUME"]);
        assert_eq!(names(stream.feed(b"ent\": \"SHUTDOWN\"}\n").unwrap()), ["SHUTDOWN"]);
    }

    #[test]
    fn what_was_begun_is_all_waited_for_and_the_first_refusal_is_told() {
        let (socket, peer) = peer(|mut s| {
            open(&mut s);
            let asked: Vec<Value> = (0..3).map(|_| line(&mut s)["execute"].clone()).collect();
            assert_eq!(asked, ["one", "two", "three"]);
            s.write_all(b"{\"return\": {}, \"id\": 2}\n{\"error\": {\"desc\": \"no\"}, \"id\": 3}\n").unwrap();
            s.write_all(b"{\"error\": {\"desc\": \"nor that\"}, \"id\": 4}\n").unwrap();
            assert_eq!(line(&mut s)["execute"], "four");
            s.write_all(b"{\"return\": {\"ok\": 1}, \"id\": 5}\n").unwrap();
        });
        let mut qmp = Qmp::open(socket, PATIENCE).unwrap();
        for name in ["one", "two", "three"] {
            qmp.begin(name, None).unwrap();
        }
        let refused = qmp.finish().unwrap_err();
        assert!(matches!(&refused, QmpError::Refused { command, description } if command == "two" && description == "no"), "{refused}");
        // All answers were taken: the next one is that of the next command.
        qmp.finish().unwrap();
        assert_eq!(qmp.execute("four", None).unwrap(), json!({"ok": 1}));
        peer.join().unwrap();
    }

    #[test]
    fn events_between_command_and_reply_are_kept() {
        let (socket, peer) = peer(|mut s| {
            open(&mut s);
            let asked = line(&mut s);
            assert_eq!((asked["execute"].as_str(), asked["arguments"]["x"].as_i64()), (Some("go"), Some(1)));
            s.write_all(b"{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": 77}\n{\"event\": \"RESUME\"}\n").unwrap();
            s.write_all(b"{\"return\": {\"ok\": true}, \"id\": 2}\n").unwrap();
        });
        let mut qmp = Qmp::open(socket, PATIENCE).unwrap();
        assert_eq!(qmp.execute("go", Some(json!({"x": 1}))).unwrap(), json!({"ok": true}));
        assert_eq!((qmp.event().unwrap().0, qmp.event().unwrap().0), ("STOP".to_owned(), "RESUME".to_owned()));
        peer.join().unwrap();
    }

    #[test]
    fn a_dying_peer_a_silent_peer_and_a_refusal_are_three_errors() {
        let (socket, dying) = peer(|mut s| {
            open(&mut s);
            line(&mut s);
            s.write_all(b"{\"retu").unwrap();
        });
        assert!(matches!(Qmp::open(socket, PATIENCE).unwrap().execute("quit", None), Err(QmpError::Closed)));
        dying.join().unwrap();

        let (socket, _silent) = UnixStream::pair().unwrap();
        let start = Instant::now();
        assert!(matches!(Qmp::open(socket, Duration::from_millis(50)), Err(QmpError::TimedOut { .. })));
        assert!(start.elapsed() < Duration::from_secs(2));

        let (socket, refusing) = peer(|mut s| {
            open(&mut s);
            line(&mut s);
            s.write_all(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}, \"id\": 2}\n").unwrap();
        });
        let error = Qmp::open(socket, PATIENCE).unwrap().execute("cont", None).unwrap_err();
        assert_eq!(error.to_string(), "the hypervisor refused cont: not now");
        refusing.join().unwrap();
    }
}
