//! Heads of HTTP responses, and short responses.
//!
//! A stream has no length, and its end is the end of the connection (RFC 9112 section 6.3): in chunks
//! it would have a head for each tag, and players of HTTP/1.0 would need other bytes than the rest.

use super::request::Refused;

/// What a page of another site may send and see.
const CROSSDOMAIN: &str = "Access-Control-Allow-Origin: *\r\n\
    Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
    Access-Control-Allow-Headers: Range, Cache-Control, Authorization, X-Requested-With, \
    Content-Type\r\n\
    Access-Control-Expose-Headers: Server, Content-Length\r\n";

/// How all of them are built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    /// Pages of other sites may read them.
    pub(super) crossdomain: bool,
}

impl Answers {
    /// The head of a stream.
    pub(super) fn stream(self) -> Vec<u8> {
        // nginx holds back what it passes on, unless it is told not to.
        self.head(200, "Content-Type: video/x-flv\r\nX-Accel-Buffering: no\r\n")
    }

    /// The answer to OPTIONS.
    pub(super) fn options(self) -> Vec<u8> {
        self.head(200, "Allow: GET, HEAD, OPTIONS\r\nContent-Length: 0\r\n")
    }

    /// A refusal, for HEAD without its body.
    pub(super) fn refusal(self, refused: &Refused, with_body: bool) -> Vec<u8> {
        let body = format!("{}\n", refused.why);
        let allow = if refused.status == 405 { "Allow: GET, HEAD, OPTIONS\r\n" } else { "" };
        let fields = format!(
            "{allow}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n",
            body.len()
        );
        let mut answer = self.head(refused.status, &fields);
        if with_body {
            answer.extend_from_slice(body.as_bytes());
        }
        answer
    }

    fn head(self, status: u16, fields: &str) -> Vec<u8> {
        let crossdomain = if self.crossdomain { CROSSDOMAIN } else { "" };
        let reason = reason(status);
        format!(
            "HTTP/1.1 {status} {reason}\r\nServer: forwarder\r\nConnection: close\r\n\
             Cache-Control: no-store\r\n{fields}{crossdomain}\r\n"
        )
        .into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}
