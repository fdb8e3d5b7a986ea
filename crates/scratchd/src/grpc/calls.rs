//! What every call has, whatever it asks for: a request id, a deadline, a place among its tenant's, and ErrorInfo on every
//! error, also on those that come from below.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::Instrument;

use super::Unread;
use super::connection::Shared;
use crate::broker::Broker;
use crate::reason::{DOMAIN, RequestError};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Wraps the services.
#[derive(Clone)]
pub(super) struct CallsLayer(pub(super) Arc<Broker>);

/// The services, wrapped.
#[derive(Clone)]
pub(super) struct Calls<S> {
    broker: Arc<Broker>,
    services: S,
}

impl<S> tower::Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, services: S) -> Calls<S> {
        Calls { broker: Arc::clone(&self.0), services }
    }
}

impl<S> tower::Service<Request<Body>> for Calls<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let id = request_id(request.headers());
        let shared = request.extensions().get::<Arc<Shared>>();
        let tenant = shared.map(|shared| shared.caller().tenant.0);
        if let Some(Err(error)) = shared.map(|shared| shared.look_again(&self.broker)) {
            let mut response = error.to_status(None).into_http();
            note(&self.broker, tenant, finish(response.headers_mut(), &id));
            return Box::pin(std::future::ready(Ok(response)));
        }
        let settings = self.broker.settings.get();
        let limit = shared.map_or(settings.limits.calls, |shared| settings.limits_of(shared.caller()).calls);
        let Some(counted) = shared.and_then(|shared| shared.outgoing.call(limit)) else {
            let mut response = RequestError::LimitCalls { limit }.to_status(None).into_http();
            note(&self.broker, tenant, finish(response.headers_mut(), &id));
            return Box::pin(std::future::ready(Ok(response)));
        };
        let deadline = request.headers().get("grpc-timeout").and_then(deadline);
        let span = tracing::info_span!("call", path = request.uri().path(), tenant, request_id = ?id);
        // Begun here, and so not after tonic's own, which would answer CANCELLED without a reason.
        let late = deadline.map(tokio::time::sleep);
        let answered = self.services.call(request);
        let broker = Arc::clone(&self.broker);
        let call = async move {
            let late = async {
                match late {
                    Some(late) => late.await,
                    None => std::future::pending().await,
                }
            };
            let mut response = tokio::select! {
                biased;
                Ok(response) = answered => response,
                () = late => RequestError::Deadline.to_status(None).into_http(),
            };
            note(&broker, tenant, finish(response.headers_mut(), &id));
            // Places are given up with the last of the reply, not with the first.
            let unread = response.extensions_mut().remove::<Unread>();
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |mut frame| {
                    let _ = (&counted, &unread);
                    if let Some(trailers) = frame.trailers_mut() {
                        note(&broker, tenant, explain(trailers, &id));
                    }
                    frame
                }))
            }))
        };
        Box::pin(call.instrument(span))
    }
}

/// The client's own, if it can be shown; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|given| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&given.len()) && given.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        static PROCESS: LazyLock<u32> = LazyLock::new(std::process::id);
        let number = format!("{}-{}", *PROCESS, NEXT.fetch_add(1, Ordering::Relaxed));
        HeaderValue::try_from(number).expect("digits are visible ASCII")
    })
}

/// The header of the gRPC wire format: up to 8 digits and a unit. What is none is ignored, as tonic does.
pub(super) fn deadline(header: &HeaderValue) -> Option<Duration> {
    let text = header.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn finish(headers: &mut HeaderMap, id: &HeaderValue) -> Option<String> {
    headers.insert(REQUEST_ID, id.clone());
    explain(headers, id)
}

/// Gives an error, if this is one, its ErrorInfo with the request's id; its reason.
fn explain(headers: &mut HeaderMap, id: &HeaderValue) -> Option<String> {
    let status = Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)?;
    let status = explained(status, id.to_str().unwrap_or_default());
    tracing::debug!(code = ?status.code(), message = status.message(), "refused");
    // An error: the message has what no header can hold; then the status is sent as it was.
    let _ = status.add_header(headers);
    status.get_details_error_info().map(|info| info.reason)
}

/// Watchers hear of what limits refuse.
fn note(broker: &Broker, tenant: Option<u32>, reason: Option<String>) {
    if let (Some(tenant), Some(reason)) = (tenant, reason) {
        broker.note_refusal(tenant, &reason);
    }
}

fn explained(status: Status, id: &str) -> Status {
    let status = match status.get_details_error_info() {
        Some(_) => status,
        None => from_below(&status).map_or(status, |error| error.to_status(None)),
    };
    let Some(mut info) = status.get_details_error_info() else { return status };
    info.metadata.insert("request_id".to_owned(), id.to_owned());
    let details = ErrorDetails::with_error_info(info.reason, DOMAIN, info.metadata);
    Status::with_error_details(status.code(), status.message(), details)
}

/// What tonic and its reflection service say without a reason.
fn from_below(status: &Status) -> Option<RequestError> {
    match status.code() {
        Code::Unimplemented => Some(RequestError::MethodUnknown),
        Code::OutOfRange | Code::ResourceExhausted => Some(RequestError::MessageTooLarge),
        Code::Internal | Code::InvalidArgument => Some(RequestError::MessageGarbled),
        Code::NotFound => Some(RequestError::ServiceUnknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_the_wire_format_has_them() {
        let read = |text: &'static str| deadline(&HeaderValue::from_static(text));
        assert_eq!(read("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(
            (read("20m"), read("99999999n")),
            (Some(Duration::from_millis(20)), Some(Duration::from_nanos(99_999_999)))
        );
        for text in ["", "S", "1", "1s", "-1S", "123456789S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn errors_from_below_get_a_reason_and_every_error_its_request() {
        let mut headers = HeaderMap::new();
        Status::unimplemented("").add_header(&mut headers).unwrap();
        explain(&mut headers, &HeaderValue::from_static("r-1"));
        let info = Status::from_header_map(&headers).unwrap().get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("METHOD_UNKNOWN", "scratchd"));
        assert_eq!(info.metadata["request_id"], "r-1");
    }

    #[test]
    fn only_ids_that_can_be_shown_are_taken_over() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("build-42"));
        assert_eq!(request_id(&headers), "build-42");
        headers.insert(REQUEST_ID, HeaderValue::from_static("two words"));
        assert_ne!(request_id(&headers), "two words");
    }
}
