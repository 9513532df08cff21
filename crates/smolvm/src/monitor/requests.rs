//! What clients ask: streams for the guest, and requests to the monitor itself.

use std::time::Duration;

use smolvm_proto::{ExecErrorKind, ExecExit, Frame, FrameKind, MonitorErrorCode, MonitorReply, MonitorRequest, decode, encode};

use super::pause::Motion;
use super::poll::Loop;
use super::ready::Phase;
use super::relay::{ClientId, OpenRefused};

/// The longest grace a client can ask for.
const MAX_GRACE: Duration = Duration::from_mins(10);
/// Bytes that may wait for all clients together.
const MAX_WAITING_OF_ALL: usize = 64 << 20;

const NOT_READY: MonitorErrorCode = MonitorErrorCode::GuestNotReady;

impl Loop<'_> {
    /// One frame of a client.
    pub(super) fn client_sent(&mut self, id: ClientId, frame: Frame) {
        match frame.kind {
            FrameKind::Control => match decode(&frame.payload) {
                Ok(request) => self.request(id, &request),
                Err(_) => self.drop_client(id),
            },
            FrameKind::Open => self.open(id, frame),
            FrameKind::Data | FrameKind::Eof | FrameKind::Credit | FrameKind::StreamControl | FrameKind::Reset => {
                let Some(stream) = self.relay.agent_stream(id, frame.stream) else { return };
                if frame.kind == FrameKind::Reset {
                    self.relay.close(stream);
                }
                self.guest.queue(&Frame { stream, ..frame });
            }
            // Only the guest ends a stream with a result.
            FrameKind::Exit => self.drop_client(id),
        }
    }

    fn open(&mut self, id: ClientId, frame: Frame) {
        let refusal = if self.evidence.stop_requested {
            self.not_now(id, NOT_READY, "the sandbox is being stopped")
        } else if self.phase != Phase::Running {
            self.not_now(id, NOT_READY, "the guest is not ready")
        } else if self.motion != Motion::Running && !self.is_back_soon() {
            self.not_now(id, MonitorErrorCode::Paused, "the sandbox is paused")
        } else if self.guest.is_closed() {
            self.not_now(id, NOT_READY, "the guest no longer answers")
        } else if self.guest.is_full() {
            "the guest takes no more at the moment"
        } else {
            match self.relay.open(id, frame.stream) {
                Ok(stream) => return self.guest.queue(&Frame { stream, ..frame }),
                Err(OpenRefused::InUse) => return self.drop_client(id),
                Err(OpenRefused::TooMany) => "too many commands run in this sandbox at once",
            }
        };
        let exit = ExecExit::failed(ExecErrorKind::SpawnFailed, refusal);
        if let Ok(payload) = encode(&exit) {
            self.answer(id, &Frame::on_stream(FrameKind::Exit, frame.stream, payload));
        }
    }

    /// Says first that it is not the command's fault; the stream ends as any other that cannot begin.
    fn not_now(&mut self, id: ClientId, code: MonitorErrorCode, why: &'static str) -> &'static str {
        let reply = MonitorReply::Error { code, message: why.to_owned() };
        if let Ok(payload) = encode(&reply) {
            self.answer(id, &Frame::control(payload));
        }
        why
    }

    fn request(&mut self, id: ClientId, request: &MonitorRequest) {
        let reply = match request {
            MonitorRequest::Status => MonitorReply::Status {
                id: self.config.id.clone(),
                generation: u64::try_from(self.config.generation).unwrap_or(0),
                pid: self.pid,
                agent_version: self.agent_version.clone(),
            },
            MonitorRequest::Pause => return self.pause(id),
            MonitorRequest::Resume => return self.resume(id),
            MonitorRequest::Locate => return self.locate(id),
            MonitorRequest::Freeze { sync, layer } => return self.freeze(id, *sync, *layer),
            MonitorRequest::Merged { layers } => return self.merged(id, layers),
            MonitorRequest::Thaw => return self.thaw(id),
            MonitorRequest::Stop { grace_ms } => {
                self.wants_the_end(id);
                self.begin_stop(Duration::from_millis(*grace_ms).min(MAX_GRACE));
                MonitorReply::Stopping
            }
            MonitorRequest::Kill => {
                self.wants_the_end(id);
                self.kill_now();
                MonitorReply::Stopping
            }
            MonitorRequest::Unknown => MonitorReply::Error {
                code: MonitorErrorCode::Unsupported,
                message: "this monitor does not know the request; it is of another version".to_owned(),
            },
        };
        if let Ok(payload) = encode(&reply) {
            self.answer(id, &Frame::control(payload));
        }
    }

    /// A guest that stands still for a moment, to be copied, gets what is asked of it when it goes on.
    fn is_back_soon(&self) -> bool {
        matches!(self.motion, Motion::Resuming { .. }) || self.copying.as_ref().is_some_and(|copying| !copying.was_paused())
    }

    fn wants_the_end(&mut self, id: ClientId) {
        if !self.stoppers.contains(&id) {
            self.stoppers.push(id);
        }
    }

    /// Queues a frame for a client; one that does not read, or has the most waiting when all have too much, is dropped.
    pub(super) fn answer(&mut self, id: ClientId, frame: &Frame) {
        let streams = self.relay.streams(id);
        let keeps_up = self.clients.iter_mut().find(|c| c.id == id).is_none_or(|client| client.queue(frame, streams));
        if !keeps_up {
            self.drop_client(id);
        }
        if self.clients.iter().map(|c| c.out.len()).sum::<usize>() > MAX_WAITING_OF_ALL
            && let Some(worst) = self.clients.iter().max_by_key(|c| c.out.len()).map(|c| c.id)
        {
            self.drop_client(worst);
        }
    }
}
