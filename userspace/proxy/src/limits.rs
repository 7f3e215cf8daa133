//! Every bound of the proxy that is not an operator's setting.

use std::time::Duration;

use weir_core::h1;

/// Buffer for the head of a message, in bytes; a longer head is answered 431.
pub(crate) const HEAD_LEN_MAX: usize = h1::HEAD_LEN_MAX;
/// Streams a client may have open on one HTTP/2 connection.
pub(crate) const STREAMS_MAX: u32 = 256;
/// Bytes of a request body a client may send before any is passed on, on a stream and on all of a connection.
pub(crate) const CLIENT_STREAM_WINDOW: u32 = 256 << 10;
pub(crate) const CLIENT_WINDOW: u32 = 1 << 20;
/// Streams on one HTTP/2 connection to a server, where it allows as many; with more of them another connection is made.
pub(crate) const SERVER_STREAMS_MAX: usize = 128;
/// Bytes of a response body a server may send before any is passed on. The window of a connection has room for those of all its
/// streams: a client that reads slowly then holds up nobody but itself.
pub(crate) const SERVER_STREAM_WINDOW: u32 = 128 << 10;
pub(crate) const SERVER_WINDOW: u32 = SERVER_STREAM_WINDOW * SERVER_STREAMS_MAX as u32;
/// Bytes of a request body that wait for a server's window.
pub(crate) const SERVER_SEND_BUFFER: usize = 64 << 10;
/// How long a client may take to say whom it wants where its TLS is passed through.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the one in front of a client may take for its header of the PROXY protocol: the specification wants time for a segment
/// to be lost and sent again.
pub(crate) const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// From one HTTP/2 ping to the next, and how long the answer may take: ends connections of clients that vanished.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long nothing may move on a body in either direction before the exchange is given up.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(300);
/// Connections the kernel completes before we accept them, per socket.
pub(crate) const BACKLOG: i32 = 4096;
/// Bytes of the access log of one thread that wait for the writer; further lines are dropped and counted.
pub(crate) const LOG_BUFFER_MAX: usize = 4 << 20;
/// How often it is looked whether a log file was renamed, and a receiver of syslog that is gone is sought again.
pub(crate) const LOG_LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a receiver of syslog is waited for; then what waits for it is dropped and counted.
pub(crate) const LOG_SEND_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of a request target or host that are logged.
pub(crate) const LOGGED_LEN_MAX: usize = 1024;
/// How long a server that refused a connection is avoided, unless a check passes before.
pub(crate) const SUSPECT_FOR: Duration = Duration::from_secs(1);
/// The same for one that did not even refuse: each further attempt would cost a client the whole `connect_timeout`.
pub(crate) const SILENT_SUSPECT_FOR: Duration = Duration::from_secs(5);
/// Unless the pool says otherwise, bytes that a server's host does not acknowledge for so many times `connect_timeout` end the
/// connection: a host that vanished must not hold requests until `response_timeout`.
pub(crate) const UNACKNOWLEDGED_FACTOR: u32 = 2;
/// A client's connection on which nothing moves is probed after this time, and again at the same interval: clients may sleep.
pub(crate) const CLIENT_KEEPALIVE: Duration = Duration::from_secs(60);
/// A queued request looks again this often, whatever wakes it: health changes free no slot.
pub(crate) const QUEUE_RECHECK: Duration = Duration::from_millis(100);
/// Health changes that wait for the controller; the checks then wait too.
pub(crate) const HEALTH_QUEUE_MAX: usize = 1024;
/// Checks of the proxy's own listeners a second, all together; with more sockets each is checked less often.
pub(crate) const SELF_CHECKS_RATE_MAX: u32 = 100;
/// A check of a `tcp` listener that has arrived is kept open for so long at most, for the other side to end it.
pub(crate) const SELF_CHECK_LINGER: Duration = Duration::from_secs(1);
/// Pause after a failed accept (no descriptors left).
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a socket about to close still hears the end of handshakes that have begun.
pub(crate) const HANDSHAKES_END: Duration = Duration::from_millis(250);
/// On a stop, a connection that has not sent its first request yet may still do so for this long.
pub(crate) const LAST_CALL: Duration = Duration::from_millis(250);
/// After the last response on a connection, a client may still send for so long, and so much, before the connection is cut:
/// unread bytes would make the kernel throw the response away.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
pub(crate) const LINGER_LEN_MAX: usize = 1 << 20;
/// How long a process may take to be ready before its keeper gives it up, and how much longer than it should one may take to end
/// that has handed over.
pub(crate) const KEEPER_READY_MAX: Duration = Duration::from_secs(30);
pub(crate) const KEEPER_LEAVE_EXTRA: Duration = Duration::from_secs(10);
/// How long a new process waits to be steered before it says that it is ready: whoever is before it goes on meanwhile.
pub(crate) const READY_WAIT: Duration = Duration::from_millis(200);
/// After the start of a successor, its listeners are not checked for so long: the one before it may answer in its place.
pub(crate) const OVERLAP_MAX: Duration = Duration::from_secs(1);
/// After a hand-over, an idle connection of a client may ask once more for so long, and is told then that it ends.
pub(crate) const IDLE_AFTER_HAND_OVER: Duration = Duration::from_secs(5);
