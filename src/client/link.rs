//! Making a connection: socket, HELLO, and the queues' handles, before any call goes over it.

use crate::base::code::{Class, Refusal};
use crate::client::config::ClientConfig;
use crate::client::error::ClientError;
use crate::client::shared::KEEPER_CORRELATION;
use crate::client::socket::Socket;
use crate::wire::error::class_number;
use crate::wire::response::decode_handle;
use crate::wire::{ErrorReply, FrameDecoder, Hello, Welcome, compose, hello};
use std::sync::Arc;
use std::time::Instant;

/// A connection on which HELLO was answered.
pub(crate) struct Link {
    pub(crate) socket: Arc<Socket>,
    pub(crate) decoder: FrameDecoder,
    pub(crate) welcome: Welcome,
}

/// Why there is no connection.
pub(crate) enum NoLink {
    /// It may work later.
    Later(String),
    /// It will not.
    Never(ClientError),
}

impl From<std::io::Error> for NoLink {
    fn from(error: std::io::Error) -> Self {
        NoLink::Later(error.to_string())
    }
}

impl From<Refusal> for NoLink {
    fn from(refusal: Refusal) -> Self {
        NoLink::Never(ClientError::Protocol(refusal.text))
    }
}

impl NoLink {
    /// As the error of a first attempt.
    pub(crate) fn into_error(self, config: &ClientConfig) -> ClientError {
        match self {
            NoLink::Later(reason) => ClientError::NoConnection {
                server: config.server.to_string(),
                reason,
            },
            NoLink::Never(error) => error,
        }
    }
}

impl Link {
    /// Connects and says HELLO.
    pub(crate) fn open(config: &ClientConfig, session: u128) -> Result<Self, NoLink> {
        let deadline = Instant::now() + config.connect_timeout;
        let socket = Arc::new(Socket::connect(&config.server, deadline)?);
        let mut decoder = FrameDecoder::new(hello::HELLO_BYTES_MAX);
        let name: String = config.name.chars().take(hello::PEER_NAME_BYTES_MAX / 4).collect();
        let mut out = Vec::new();
        let hello = Hello {
            heartbeat_ms: u32::try_from(config.heartbeat.as_millis()).unwrap_or(u32::MAX),
            ..Hello::new(session, &name)
        };
        hello.encode(&mut out, KEEPER_CORRELATION);
        let mut welcome = None;
        exchange(&socket, &mut decoder, &out, 1, deadline, &mut |answer| {
            welcome = Some(Welcome::decode(answer?)?);
            Ok(())
        })?;
        let Some(welcome) = welcome else {
            return Err(NoLink::Later("no answer to HELLO".to_owned()));
        };
        if welcome.version != hello::VERSION {
            let text = format!("it answered version {}", welcome.version);
            return Err(NoLink::Never(ClientError::Protocol(text)));
        }
        decoder.set_len_max(welcome.frame_bytes_max);
        Ok(Self {
            socket,
            decoder,
            welcome,
        })
    }

    /// Opens queues by name and returns their handles; `None` for one that the server refused.
    pub(crate) fn open_queues(
        &mut self,
        names: &[Arc<str>],
        deadline: Instant,
    ) -> Result<Vec<Option<u32>>, NoLink> {
        let mut handles = Vec::with_capacity(names.len());
        // In portions, so that neither side waits with a full socket for the other to read.
        for names in names.chunks(256) {
            let mut out = Vec::new();
            names
                .iter()
                .for_each(|name| compose::queue_open(&mut out, KEEPER_CORRELATION, name));
            exchange(
                &self.socket,
                &mut self.decoder,
                &out,
                names.len(),
                deadline,
                &mut |answer| {
                    handles.push(match answer {
                        Ok(body) => Some(decode_handle(body)?),
                        Err(NoLink::Never(ClientError::Refused(_))) => None,
                        Err(other) => return Err(other),
                    });
                    Ok(())
                },
            )?;
        }
        Ok(handles)
    }
}

/// One answer's body, or what the error reply in its place means for the connection.
type AnswerBody<'a> = Result<&'a [u8], NoLink>;

/// Sends requests on a connection that nobody else uses yet, and hands over as many answers.
fn exchange(
    socket: &Socket,
    decoder: &mut FrameDecoder,
    requests: &[u8],
    count: usize,
    deadline: Instant,
    take: &mut dyn FnMut(AnswerBody<'_>) -> Result<(), NoLink>,
) -> Result<(), NoLink> {
    let late = || NoLink::Later("no answer to HELLO in time".to_owned());
    if socket.write_until(requests, deadline)? < requests.len() {
        return Err(late());
    }
    let mut taken = 0;
    while taken < count {
        if let Some(frame) = decoder
            .next_frame()
            .map_err(|bad| NoLink::Never(ClientError::Protocol(bad.to_string())))?
        {
            take(if frame.header.is_error() {
                Err(error_of(frame.body))
            } else {
                Ok(frame.body)
            })?;
            taken += 1;
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        socket.set_read_timeout(left)?;
        if let Some(count) = socket.read_some(decoder.space())? {
            decoder.filled(count);
        }
    }
    Ok(())
}

fn error_of(body: &[u8]) -> NoLink {
    let Ok(reply) = ErrorReply::decode(body) else {
        return NoLink::Never(ClientError::Protocol("an error reply that is none".to_owned()));
    };
    let text = format!("{}: {}", reply.number, reply.text);
    if reply.class != class_number(Class::Caller) {
        return NoLink::Later(reply.refusal().map_or(text, |refusal| refusal.to_string()));
    }
    NoLink::Never(
        reply
            .refusal()
            .map_or(ClientError::Protocol(text), ClientError::Refused),
    )
}
