//! The router, with what is known of the connection put into each request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::body::HttpBody;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::http::Response;
use bytes::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use tower::ServiceExt as _;

use crate::http::http2;
use crate::http::takeover::Switch;
use crate::http::takeover::Takeover;
use crate::limits::Activity;
use crate::limits::Busy;
use crate::transport::Uptake;
use crate::transport::plain::MayClaim;

/// Of one connection.
#[derive(Debug)]
pub(super) struct Service {
    router: Router,
    peer: SocketAddr,
    pub(super) activity: Arc<Activity>,
    /// Of the connection. Not on HTTP/2, where each request has its own.
    pub(super) uptake: Option<Arc<Uptake>>,
    pub(super) takeover: Option<Takeover>,
    pub(super) switch: Option<Switch>,
}

impl Service {
    pub(super) fn new(router: Router, peer: SocketAddr, activity: Arc<Activity>) -> Self {
        Self { router, peer, activity, uptake: None, takeover: None, switch: None }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = self.activity.request();
        let takeover = self.takeover.clone().filter(|takeover| takeover.is_possible(&request));
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        self.uptake.iter().for_each(|uptake| drop(extensions.insert(Arc::clone(uptake))));
        self.switch.iter().for_each(|switch| drop(extensions.insert(switch.clone())));
        if takeover.is_some() {
            extensions.insert(MayClaim);
        }
        if self.uptake.is_none() {
            let router = self.router.clone();
            return Box::pin(async move {
                http2::introduce(request.extensions_mut());
                router.oneshot(request).await.map(|response| carried(response, busy))
            });
        }
        let answer = self.router.clone().oneshot(request);
        Box::pin(async move {
            let response = match (answer.await?, takeover) {
                (response, Some(takeover)) => takeover.take_for(response),
                (response, None) => response,
            };
            Ok(carried(response, busy))
        })
    }
}

/// A whole answer that only has to be taken is nothing that would hold the connection: who does not take it gives way as well.
fn carried(response: Response<Body>, busy: Busy) -> Response<Body> {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::new(Carried { body, _busy: busy }))
}

/// An answer that is still being made.
#[derive(Debug)]
struct Carried {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
