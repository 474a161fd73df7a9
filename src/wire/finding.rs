//! Finding: what the monitor found, as an error event on the same path as a failed attempt or an
//! error of a service.

use jiff::Timestamp;
use millstream_stages::{headers, incident::Severity};
use serde_json::json;

use super::subjects::Names;
use crate::broker::{Headers, Outgoing, header, set};

/// Something that the monitor found. Stages that read `monitor` are given it.
#[derive(Debug)]
pub struct Finding<'a> {
    /// What sort of thing it is: the `errorCode` that rules go by, such as `BreakerOpened`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What happened, for people.
    pub message: String,
    /// The stage that it is about.
    pub stage: &'a str,
    /// The same for whoever finds the same: the server then stores it once.
    pub id: String,
}

impl Finding<'_> {
    /// The error event.
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
