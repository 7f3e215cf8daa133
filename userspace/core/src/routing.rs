//! Smart routing: which zone serves a request.
//!
//! Three requirements, in this order: deliver whenever any healthy server exists anywhere; keep the zones evenly
//! loaded; keep a client in one zone.
//!
//! ```text
//!  home ──► the client's home zone, by cookie, VIP, client prefix or receiving zone
//!  assess ─► per pool and zone: how much of its own traffic it can carry, who may take the rest
//!  pick ──► position of the client below the home share? home : weighted rendezvous over those who take the rest
//! ```

pub mod assess;
pub mod home;
pub mod pick;

pub use assess::{Mode, PoolAssessment, ServerVerdict, ZoneAssessment, assess, assess_all};
pub use home::{HomeReason, HomeTable};
