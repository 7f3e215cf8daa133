//! A line as a JSON object. RFC 8259. Written for every request: by hand, since a general serialiser takes several times as long.

use std::io::Write as _;

use weir_model::Name;

use super::{LogLine, Timers};
use crate::text::{write_ip, write_moment, write_number, write_socket};

impl LogLine<'_> {
    /// Appends it as a JSON object, fields in the order they are declared in. No line end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        write_moment(out, self.time.0);
        out.extend_from_slice(b"\",\"listener\":\"");
        out.extend_from_slice(self.listener.as_str().as_bytes());
        out.extend_from_slice(b"\",\"client\":\"");
        write_ip(out, self.client);
        out.extend_from_slice(b"\",\"client_port\":");
        write_number(out, self.client_port.into());
        out.extend_from_slice(b",\"local\":\"");
        write_socket(out, self.local);
        out.extend_from_slice(b"\",\"protocol\":\"");
        out.extend_from_slice(self.protocol.as_bytes());
        out.extend_from_slice(if self.tls { b"\",\"tls\":true" } else { b"\",\"tls\":false" });
        text(out, ",\"method\":", self.method);
        text(out, ",\"host\":", self.host);
        text(out, ",\"target\":", self.target);
        text(out, ",\"request_id\":", self.request_id);
        name(out, ",\"pool\":", self.pool);
        name(out, ",\"home\":", self.home);
        name(out, ",\"zone\":", self.zone);
        name(out, ",\"server\":", self.server);
        let Timers { request_us, queue_us, connect_us, response_us } = self.timers;
        for (field, value) in [
            (",\"status\":", Some(self.status.into())),
            (",\"retries\":", Some(self.retries.into())),
            (",\"bytes_in\":", Some(self.bytes_in)),
            (",\"bytes_out\":", Some(self.bytes_out)),
            (",\"duration_us\":", Some(self.duration_us)),
            (",\"request_us\":", Some(request_us)),
            (",\"queue_us\":", queue_us),
            (",\"connect_us\":", connect_us),
            (",\"response_us\":", response_us),
        ] {
            if let Some(value) = value {
                out.extend_from_slice(field.as_bytes());
                write_number(out, value);
            }
        }
        out.extend_from_slice(b",\"state\":\"");
        out.extend_from_slice(&self.state.0);
        out.push(b'"');
        text(out, ",\"cause\":", self.cause);
        out.push(b'}');
    }
}

/// A field that is left out when it is empty.
fn text(out: &mut Vec<u8>, field: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(field.as_bytes());
    out.push(b'"');
    let is_plain = |byte: u8| !matches!(byte, ..b' ' | b'"' | b'\\');
    if value.bytes().all(is_plain) {
        out.extend_from_slice(value.as_bytes());
    } else {
        for byte in value.bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                // Writing to memory does not fail.
                ..b' ' => _ = write!(out, "\\u{byte:04x}"),
                byte => out.push(byte),
            }
        }
    }
    out.push(b'"');
}

/// A name needs no escapes.
fn name(out: &mut Vec<u8>, field: &str, name: Option<&Name>) {
    out.extend_from_slice(field.as_bytes());
    match name {
        Some(name) => {
            for part in [b"\"", name.as_str().as_bytes(), b"\""] {
                out.extend_from_slice(part);
            }
        }
        None => out.extend_from_slice(b"null"),
    }
}
