//! ipc-channel: values of 64 bytes, the same type as in our queue.

use std::error::Error;

use ipc_channel::ipc::{IpcOneShotServer, IpcReceiver, IpcSender, channel};
use serde_bytes::ByteBuf;

use crate::clock::nanos_per_operation;
use crate::{Arguments, Far, Measured, is_stopped};

/// Messages between two stamps, as in `queue/64B/throughput/python`.
const CHUNK: usize = 1000;

pub(crate) fn drain(arguments: &Arguments) -> Measured {
    let (server, name) = IpcOneShotServer::<IpcReceiver<ByteBuf>>::new()?;
    let far = Far::start(arguments, &name)?;
    let (_, receiver) = server.accept()?;
    let mut failed = None;
    let nanos = nanos_per_operation(arguments.span, CHUNK, || {
        for _ in 0..CHUNK {
            match receiver.recv() {
                Ok(value) if value.len() == 64 => {}
                Ok(_) => failed = Some("a value came back changed".into()),
                Err(error) => failed = Some(error.to_string()),
            }
        }
    });
    far.end(|| drop(receiver.try_recv()))?;
    failed.map_or(Ok(1000.0 / nanos), |failed| Err(failed.into()))
}

pub(crate) fn feed(name: &str) -> Result<(), Box<dyn Error>> {
    let (sender, receiver) = channel::<ByteBuf>()?;
    IpcSender::connect(name.to_owned())?.send(receiver)?;
    while !is_stopped() {
        sender.send(ByteBuf::from(vec![b'x'; 64]))?;
    }
    Ok(())
}
