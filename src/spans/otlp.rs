//! The few messages of OTLP 1 that a list of spans needs (opentelemetry-proto, `trace/v1/trace.proto`), in protobuf.

use prost::Message;

use crate::spans::Span;
use crate::spans::Value;

/// `SPAN_KIND_INTERNAL`, and `STATUS_CODE_ERROR`.
const KIND_INTERNAL: i32 = 1;
const STATUS_ERROR: i32 = 2;
/// Flags of a sampled span (Trace Context §3.2.2.5).
const SAMPLED: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "OneValue", tags = "1, 3")]
    value: Option<OneValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OneValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => OneValue::Text(text),
        Value::Number(number) => OneValue::Number(i64::try_from(number).unwrap_or(i64::MAX)),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn wire(span: Span) -> WireSpan {
    let Span { trace, id, name, begun_us, ended_us, attributes, failed } = span;
    WireSpan {
        trace_id: trace.id.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: trace.parent.to_be_bytes().to_vec(),
        name: name.to_owned(),
        kind: KIND_INTERNAL,
        start_time_unix_nano: begun_us.saturating_mul(1000),
        end_time_unix_nano: ended_us.max(begun_us).saturating_mul(1000),
        attributes: attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        status: failed.then_some(Status { code: STATUS_ERROR }),
        flags: SAMPLED,
    }
}

/// The body of `POST /v1/traces`. `about` says of which service and instance these spans are.
pub(super) fn request(about: &[(&str, String)], spans: Vec<Span>) -> Vec<u8> {
    let attributes = about.iter().map(|(key, value)| attribute(key, Value::Text(value.clone()))).collect();
    let scope = Scope { name: "tidings".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = ScopeSpans { scope: Some(scope), spans: spans.into_iter().map(wire).collect() };
    let resource = Some(Resource { attributes });
    Request { resource_spans: vec![ResourceSpans { resource, scope_spans: vec![spans] }] }.encode_to_vec()
}
