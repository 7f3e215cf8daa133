//! The events of RFC 4271 §8.1 that exist here, each under its name in the RFC.

use super::lane::ConnId;
use crate::wire::{Notification, Open, Refresh, UpdateReport};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fsm {
    /// Event 1.
    ManualStart,
    /// Event 2.
    ManualStop { text: String },
    /// Event 2 without its withdrawals: the speaker comes back, and the peer shall keep the routes. RFC 4724 §4, RFC 8538.
    ManualRestart { text: String },
    /// Event 9.
    ConnectRetryTimerExpires,
    /// Event 10.
    HoldTimerExpires,
    /// Event 11.
    KeepaliveTimerExpires,
    /// RFC 9687 §3.2, Event 29.
    SendHoldTimerExpires,
    /// Event 13.
    IdleHoldTimerExpires,
    /// Event 16: our connection is there.
    TcpCrAcked,
    /// Event 17: the peer's connection is there.
    TcpConnectionConfirmed { conn: ConnId },
    /// Event 18.
    TcpConnectionFails { why: String },
    /// Event 19.
    BgpOpen(Open),
    /// Event 21.
    BgpHeaderErr(Notification),
    /// Event 22.
    BgpOpenMsgErr(Notification),
    /// Event 23: the other lane won.
    OpenCollisionDump,
    /// Events 24 and 25.
    NotifMsg(Notification),
    /// Event 26.
    KeepAliveMsg,
    /// Event 27.
    UpdateMsg(UpdateReport),
    /// Event 28.
    UpdateMsgErr(Notification),
    /// Not of RFC 4271: the path is dead. RFC 5882 §4.2, RFC 9384 §3.
    BfdDown,
    /// RFC 2918 §4, RFC 7313 §4.
    RouteRefresh(Refresh),
    /// RFC 7313 §5.
    RouteRefreshErr(Notification),
}
