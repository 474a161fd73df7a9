//! Finding: an error event of the monitor.
//!
//! Same path as a failed attempt or an error of a service.

use jiff::Timestamp;
use millstream_stages::{headers, incident::Severity};
use serde_json::json;

use super::subjects::Names;
use crate::broker::{Headers, Outgoing, header, set};

/// Finding of the monitor. Stages that read `monitor` are given it.
#[derive(Debug)]
pub struct Finding<'a> {
    /// Sort of finding: the `errorCode` that rules go by, such as `BreakerOpened`.
    pub code: &'static str,
    /// Severity of the finding.
    pub severity: Severity,
    /// Text for people.
    pub message: String,
    /// Stage that it is about.
    pub stage: &'a str,
    /// Id: the same for whoever finds the same, so that the server stores it once.
    pub id: String,
}

impl Finding<'_> {
    /// Returns the error event.
    pub fn message(&self, names: &Names) -> Outgoing {
        let body = json!({
            "errorCode": self.code,
            "severity": self.severity,
            "message": self.message,
            "serviceName": format!("{}/{}", names.pipeline(), self.stage),
            "timestamp": Timestamp::now().to_string(),
            "metadata": { "stage": self.stage, "finding": true },
        });
        let mut all = Headers::new();
        set(&mut all, headers::EVENT_ID, header(&self.id));
        set(&mut all, headers::EVENT_TYPE, self.code);
        set(&mut all, headers::ENVELOPE, "error");
        let outgoing =
            Outgoing::new(names.finding_subject(self.code, self.stage), body.to_string());
        Outgoing { headers: all, ..outgoing }.id(&self.id)
    }
}
