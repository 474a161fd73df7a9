//! World: what stages that run are built with: the configuration's folder, channels, real handlers.

use std::sync::Arc;

use millstream_stages::ChannelTerms;

use crate::{
    broker::Broker,
    config::{HandlerBuilder, Pipeline, pipeline, world::ConfigWorld},
    handlers::{self, HandlerContext, Registry},
};

/// World of stages that run: the folder of the configuration, its channels, and real handlers.
pub(super) struct RunWorld {
    pipeline: Arc<Pipeline>,
    channels: Vec<ChannelTerms>,
    handler: Box<HandlerBuilder>,
}

impl RunWorld {
    pub(super) fn new(pipeline: &Arc<Pipeline>, broker: &Broker, registry: &Registry) -> Self {
        let context = HandlerContext {
            broker: Some(broker.clone()),
            base: pipeline.base.clone(),
            registered: registry.clone(),
        };
        Self {
            pipeline: Arc::clone(pipeline),
            channels: pipeline.channels.iter().map(pipeline::Channel::terms).collect(),
            handler: Box::new(move |options, _| handlers::build(options, &context)),
        }
    }

    pub(super) fn lend(&self) -> ConfigWorld<'_> {
        ConfigWorld { base: &self.pipeline.base, handler: &self.handler, channels: &self.channels }
    }
}
