//! iceoryx2's publish/subscribe: zero-copy, polled, its services between processes (`ipc::Service`,
//! whose ports are for one thread each, the faster kind).
//!
//! Streams: typed samples that are written where they are loaned, a buffer of as many as our ring
//! holds, nothing lost: no overflow, and what found no room is sent again (which is as fast as the
//! publisher's own waiting, but does not sleep). Round trips: as in iceoryx2's own benchmark, a buffer
//! of one with overflow, the next sample loaned before the wait.

use std::error::Error;
use std::hint::spin_loop;

use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use crate::clock::nanos_per_operation;
use crate::{Arguments, CHUNK, Far, Measured, is_stopped, unique};

type Service = ipc::Service;
type Words<const N: usize> = [u64; N];
type Topic<const N: usize> = PortFactory<Service, Words<N>, ()>;

const CAPACITY: usize = 1024;
const ROUNDS: usize = 256;
/// Ends the echo.
const STOP: u64 = u64::MAX;

fn node() -> Result<Node<Service>, Box<dyn Error>> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled);
    Ok(node.create::<Service>()?)
}

fn topic<const N: usize>(
    node: &Node<Service>,
    name: &str,
    buffer: usize,
    overflow: bool,
) -> Result<Topic<N>, Box<dyn Error>> {
    Ok(node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<Words<N>>()
        .max_publishers(1)
        .max_subscribers(1)
        .history_size(0)
        .subscriber_max_buffer_size(buffer)
        .enable_safe_overflow(overflow)
        .open_or_create()?)
}

fn poll<const N: usize>(
    subscriber: &Subscriber<Service, Words<N>, ()>,
) -> Result<Words<N>, Box<dyn Error>> {
    loop {
        match subscriber.receive()? {
            Some(sample) => return Ok(*sample),
            None => spin_loop(),
        }
    }
}

pub(crate) fn drain<const N: usize>(arguments: &Arguments) -> Measured {
    let (node, name) = (node()?, unique());
    let topic = topic::<N>(&node, &name, CAPACITY, false)?;
    let subscriber = topic.subscriber_builder().create()?;
    let far = Far::start(arguments, &name)?;
    let (mut expected, mut wrong) = (0, 0);
    let mut failed = None;
    let nanos = nanos_per_operation(arguments.span, CHUNK, || {
        for _ in 0..CHUNK {
            match poll(&subscriber) {
                Ok(words) => wrong |= (words[0] ^ expected) | (words[N - 1] ^ expected),
                Err(error) => return failed = Some(error),
            }
            expected += 1;
        }
    });
    far.end(|| drop(subscriber.receive()))?;
    match failed {
        Some(error) => Err(error),
        None if wrong != 0 => Err("messages came out of order".into()),
        None => Ok(1000.0 / nanos),
    }
}

pub(crate) fn feed<const N: usize>(name: &str) -> Result<(), Box<dyn Error>> {
    let node = node()?;
    let topic = topic::<N>(&node, name, CAPACITY, false)?;
    let publisher = topic
        .publisher_builder()
        .backpressure_strategy(BackpressureStrategy::DiscardData)
        .create()?;
    let mut value = 0;
    while !is_stopped() {
        let sample = publisher.loan_uninit()?.write_payload([value; N]);
        // How many have it: none if there was no room.
        match sample.send()? {
            0 => spin_loop(),
            _ => value += 1,
        }
    }
    Ok(())
}

type Ends = (
    Publisher<Service, Words<1>, ()>,
    Subscriber<Service, Words<1>, ()>,
);

fn ends(node: &Node<Service>, out: &str, back: &str) -> Result<Ends, Box<dyn Error>> {
    let publisher = topic::<1>(node, out, 1, true)?
        .publisher_builder()
        .create()?;
    let subscriber = topic::<1>(node, back, 1, true)?
        .subscriber_builder()
        .create()?;
    Ok((publisher, subscriber))
}

pub(crate) fn rounds(arguments: &Arguments) -> Measured {
    let (node, name) = (node()?, unique());
    let (out, back) = (format!("{name}-there"), format!("{name}-back"));
    let (publisher, subscriber) = ends(&node, &out, &back)?;
    let far = Far::start(arguments, &name)?;
    // What the far process sends once it is there.
    poll(&subscriber)?;
    let mut value = 0;
    let mut failed = None;
    let mut loaned = Some(publisher.loan_uninit()?);
    let mut round = |value| -> Result<u64, Box<dyn Error>> {
        let sample = loaned.take().ok_or("a loan for each round")?;
        sample.write_payload([value]).send()?;
        loaned = Some(publisher.loan_uninit()?);
        Ok(poll(&subscriber)?[0])
    };
    let nanos = nanos_per_operation(arguments.span, ROUNDS, || {
        for _ in 0..ROUNDS {
            match round(value) {
                Ok(back) if back == value => value += 1,
                Ok(_) => return failed = Some("a message came back changed".into()),
                Err(error) => return failed = Some(error),
            }
        }
    });
    // The far process sends it back before it ends.
    round(STOP)?;
    far.end(|| ())?;
    failed.map_or(Ok(nanos), Err)
}

pub(crate) fn echo(name: &str) -> Result<(), Box<dyn Error>> {
    let node = node()?;
    let (there, back) = (format!("{name}-there"), format!("{name}-back"));
    let (publisher, subscriber) = ends(&node, &back, &there)?;
    publisher.loan_uninit()?.write_payload([0]).send()?;
    loop {
        let sample = publisher.loan_uninit()?;
        let value = loop {
            match subscriber.receive()? {
                Some(value) => break *value,
                None if is_stopped() => return Ok(()),
                None => spin_loop(),
            }
        };
        sample.write_payload(value).send()?;
        if value == [STOP] {
            return Ok(());
        }
    }
}
