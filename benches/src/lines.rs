//! Every comparison. To add one: a file here, and its constant in [`ALL`].

mod boost;
mod bytes;
mod daemons;
mod loan;
mod lock;
mod lock_pthread;
mod mpmc;
mod mpmc_four;
mod pthread;
mod queue;
mod shm;
mod spsc_batches;
mod spsc_blocking;
mod spsc_rtt;
mod spsc_throughput;
mod start;
mod typed;
mod wordcount;

use crate::comparison::Comparison;

/// In the order of the report.
pub(crate) const ALL: &[&Comparison] = &[
    &lock::UNCONTENDED,
    &lock_pthread::LINE,
    &pthread::MUTEX,
    &pthread::CONTENDED,
    &pthread::SEMAPHORE,
    &pthread::EVENT,
    &pthread::CONDITION,
    &pthread::BARRIER,
    &pthread::READ,
    &pthread::READERS,
    &boost::ALL[0],
    &boost::ALL[1],
    &boost::ALL[2],
    &boost::ALL[3],
    &boost::ALL[4],
    &boost::ALL[5],
    &boost::ALL[6],
    &boost::ALL[7],
    &spsc_throughput::ALL[0],
    &spsc_throughput::ALL[1],
    &spsc_throughput::ALL[2],
    &spsc_throughput::ALL[3],
    &spsc_batches::ALL[0],
    &spsc_batches::ALL[1],
    &spsc_batches::ALL[2],
    &spsc_batches::ALL[3],
    &spsc_rtt::ALL[0],
    &spsc_rtt::ALL[1],
    &spsc_rtt::ALL[2],
    &spsc_blocking::SLEEPING,
    &spsc_blocking::SPINNING,
    &spsc_blocking::BOOST,
    &mpmc::ALL[0],
    &mpmc::ALL[1],
    &mpmc::ALL[2],
    &loan::ALL[0],
    &loan::ALL[1],
    &loan::ALL[2],
    &mpmc::ALL[3],
    &mpmc::ALL[4],
    &mpmc_four::ALL[0],
    &mpmc_four::ALL[1],
    &queue::ALL[0],
    &queue::ALL[1],
    &queue::ALL[2],
    &bytes::FOUR_KIB,
    &bytes::SIXTY_FOUR_KIB,
    &typed::ALL[0],
    &typed::ALL[1],
    &typed::ALL[2],
    &typed::ALL[3],
    &typed::ALL[4],
    &start::ALL[0],
    &start::ALL[1],
    &start::ALL[2],
    &start::ALL[3],
    &start::ALL[4],
    &start::ALL[5],
    &start::ALL[6],
    &daemons::ALL[0],
    &daemons::ALL[1],
    &wordcount::LINE,
    &shm::ALL[0],
    &shm::ALL[1],
    &shm::ALL[2],
    &shm::ALL[3],
    &shm::ALL[4],
    &shm::ALL[5],
    &shm::ALL[6],
    &shm::ALL[7],
    &shm::ALL[8],
    &shm::ALL[9],
];
