//! OTLP: export of spans to a collector over HTTP, in batches, without ever holding up an event.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter as Http, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::Handle;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::span;
use crate::{limits, wire::TraceContext};

/// Exporter of spans. Call [`Exporter::shutdown`] before the process ends, or the last spans are
/// lost.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

/// Failure to set up the export of spans.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// Endpoint that is not a URL, or that no client can be made for.
    #[error("could not set up the export of spans to \"{endpoint}\" (observe.otlp)")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Error of the exporter.
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

impl Exporter {
    /// Sets up the export to an OTLP/HTTP endpoint such as `http://127.0.0.1:4318`, of this share
    /// (0 to 1) of the traces that begin here. Traces that began elsewhere carry their own
    /// sampling decision.
    ///
    /// Call it within the runtime that runs the export. What the collector does not take in time is
    /// dropped.
    ///
    /// # Errors
    /// [`OtlpError::Endpoint`]. A collector that is not there is no error: it may come.
    pub fn new(
        endpoint: &str,
        share: f64,
        pipeline: &str,
        worker: &str,
    ) -> Result<Self, OtlpError> {
        // Installed by `main` already, except where the library is used by itself.
        crate::tls::install_provider();
        let http = Http::builder()
            .with_http()
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(limits::OTLP_TIMEOUT)
            .build()
            .map_err(|source| OtlpError::Endpoint { endpoint: endpoint.to_owned(), source })?;
        let resource = Resource::builder().with_service_name("millstream").with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.namespace", pipeline.to_owned()),
            KeyValue::new("service.instance.id", worker.to_owned()),
        ]);
        TraceContext::export_share(share);
        let provider = SdkTracerProvider::builder()
            // Every span has a parent, if only `TraceContext::root`, which has applied the share.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource.build())
            .with_batch_exporter(OnRuntime::new(http))
            .build();
        Ok(Self { provider })
    }

    /// The layer by which spans reach the exporter: those of [`span`], whatever logs leave out.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let ours = filter_fn(|metadata| metadata.is_span() && metadata.target() == span::TARGET);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("millstream"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::INFO))
    }

    /// Exports what is left, within `bound`; what is not gone by then is dropped.
    pub async fn shutdown(self, bound: Duration) {
        // It blocks while the runtime carries out the export.
        let flushed =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(bound)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last spans were not exported");
        }
    }
}

/// Exporter that runs on our runtime: the SDK calls it from a thread of its own, where reqwest
/// finds none.
struct OnRuntime {
    runtime: Handle,
    inner: Arc<Http>,
    failing: AtomicBool,
}

impl OnRuntime {
    fn new(inner: Http) -> Self {
        Self { runtime: Handle::current(), inner: Arc::new(inner), failing: AtomicBool::new(false) }
    }
}

impl SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = self.inner.clone();
        let exported = self.runtime.spawn(async move { inner.export(batch).await }).await;
        let exported =
            exported.unwrap_or_else(|lost| Err(OTelSdkError::InternalFailure(lost.to_string())));
        // Logged once when it begins and once when it ends, not with every batch.
        match (&exported, self.failing.swap(exported.is_err(), Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "spans are not exported"),
            (Ok(()), true) => tracing::info!("spans are exported again"),
            _ => {}
        }
        exported
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

impl fmt::Debug for OnRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnRuntime").finish_non_exhaustive()
    }
}
