//! A `Context` as an argument: the receiver is one more client of its forkserver.

use std::ffi::CString;
use std::sync::Arc;

use multiprocess_shm::transfer::{self, Fd, Sent};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::shared::live_shared_server;
use super::{Context, Method};
use crate::forkserver::Server;

use crate::settings::Settings;
use crate::stdio::Stdio;

#[derive(Serialize)]
struct Outgoing<'a> {
    method: OutgoingMethod<'a>,
    daemon: Option<bool>,
    name: &'a Option<String>,
    settings: &'a Settings,
    streams: &'a [Option<Stdio>; 3],
}

#[derive(Serialize)]
enum OutgoingMethod<'a> {
    Server { requests: Sent<'a>, pidfd: Sent<'a> },
    Spawn { program: &'a [u8] },
    Fork,
}

#[derive(Deserialize)]
struct Incoming {
    method: IncomingMethod,
    daemon: Option<bool>,
    name: Option<String>,
    settings: Settings,
    streams: [Option<Stdio>; 3],
}

#[derive(Deserialize)]
enum IncomingMethod {
    Server { requests: Fd, pidfd: Fd },
    Spawn { program: Vec<u8> },
    Fork,
}

/// The receiver starts processes through the same forkserver; that of default contexts is started
/// if there is none. Contexts of [`Context::fork`] do not travel: their contract is the sender's.
impl Serialize for Context {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shared = match &self.method {
            Method::SharedServer => {
                Some(live_shared_server(None).map_err(transfer::refuse_sending)?)
            }
            Method::Server(server) => Some(Arc::clone(server)),
            Method::Spawn { .. } | Method::Fork { .. } => None,
        };
        let method = match (&self.method, &shared) {
            (_, Some(server)) => {
                let [requests, pidfd] = server.fds();
                OutgoingMethod::Server {
                    requests: Sent(requests),
                    pidfd: Sent(pidfd),
                }
            }
            (Method::Spawn { program }, _) => OutgoingMethod::Spawn {
                program: program.to_bytes(),
            },
            (Method::Fork { any_threads: false }, _) => OutgoingMethod::Fork,
            _ => {
                return Err(transfer::refuse_sending(
                    "a context that forks beside threads does not travel",
                ));
            }
        };
        let outgoing = Outgoing {
            method,
            daemon: self.daemon,
            name: &self.name,
            settings: &self.settings,
            streams: &self.streams,
        };
        outgoing.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let incoming = Incoming::deserialize(deserializer)?;
        let method = match incoming.method {
            IncomingMethod::Server { requests, pidfd } => Method::Server(Arc::new(
                Server::received(requests.into_inner(), pidfd.into_inner()),
            )),
            IncomingMethod::Spawn { program } => {
                let program = CString::new(program).map_err(transfer::refuse_receiving)?;
                Method::Spawn {
                    program: program.into(),
                }
            }
            IncomingMethod::Fork => Method::Fork { any_threads: false },
        };
        Ok(Self {
            method,
            daemon: incoming.daemon,
            name: incoming.name,
            settings: incoming.settings,
            streams: incoming.streams,
        })
    }
}
