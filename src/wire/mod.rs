#![doc = include_str!("PROTOCOL.md")]

pub mod compose;
pub mod decoder;
pub mod delivery;
pub mod error;
pub mod frame;
pub mod hello;
pub mod op;
pub mod request;
pub mod response;

mod fields;
mod job;
mod parse;
mod queue;

pub use decoder::{BadFrame, FrameDecoder, Frames};
pub use delivery::{DeliverEntry, DeliveryBatch, DeliveryItem, DeliveryLimits, DeliveryWriter};
pub use error::ErrorReply;
pub use frame::{Frame, FrameWriter, Header};
pub use hello::{Hello, Welcome};
pub use job::status_len;
pub use op::Op;
pub use queue::STATES_ALL;
pub use request::{Request, ReserveRequest, SubscribeRequest};
pub use response::{Outcome, OutcomeHead, OutcomeView, Reply};
