#![doc = include_str!("../README.md")]

pub use ackring::client::{
    Applied, Client, ClientConfig, ClientError, Delivery, JobPage, Pending, QueueHandle, Reconnect, Reserve,
    ServerAddress, Subscription, Window,
};
pub use ackring::{
    Backoff, Class, Durability, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState, JobStatus,
    QueueCounts, QueueOptions, QueueStats, Refusal, SettleBuilder, Token,
};
