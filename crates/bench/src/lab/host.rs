//! One host.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use super::{Mbit, QUEUE_BYTES_MIN, inside, ip};
use crate::{cost::output_of, error::BenchError, tools::Tool};

/// How TCP is kept from flooding a link: as iroh does it by default.
const CONGESTION: &str = "cubic";

/// A network namespace with one address.
pub(crate) struct Host {
    pub(super) namespace: String,
    pub(super) device: &'static str,
    pub(super) network: &'static str,
    pub(super) number: u8,
}

impl Host {
    /// Its address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.address().parse().expect("three numbers and a byte are an address")
    }

    fn address(&self) -> String {
        format!("{}.{}", self.network, self.number)
    }

    /// The same command on this host.
    pub(crate) fn runs(&self, command: Command) -> Result<Command, BenchError> {
        inside(&self.namespace, command)
    }

    /// How many bytes it has sent so far, all headers below Ethernet's included.
    pub(crate) fn sent_bytes(&self) -> Result<u64, BenchError> {
        let mut command = Command::new("cat");
        command.arg(format!("/sys/class/net/{}/statistics/tx_bytes", self.device));
        let said = output_of(&mut self.runs(command)?)?;
        said.trim().parse().map_err(|_| BenchError::Answer { program: "cat".into(), said: said.into() })
    }

    /// An address, and how fast it sends. Packets are as on a wire: none that the kernel takes apart later, which would
    /// be counted without most of their headers.
    pub(super) fn configure(&self, upload: Option<Mbit>, round_trip: Duration) -> Result<(), BenchError> {
        let on_host = |words: &[&str]| ip(&[&["-n", &self.namespace], words].concat());
        on_host(&["link", "set", self.device, "gso_max_segs", "1", "up"])?;
        on_host(&["address", "add", &format!("{}/24", self.address()), "dev", self.device])?;
        let network = format!("{}.0/24", self.network);
        on_host(&["route", "replace", &network, "dev", self.device, "congctl", CONGESTION])?;
        let Some(upload) = upload else { return Ok(()) };
        let tc = |words: &[&str]| {
            let mut command = Tool::Tc.command()?;
            command.args(words);
            output_of(&mut self.runs(command)?).map(|_| ())
        };
        let (rate, device) = (format!("{}mbit", upload.0), self.device);
        let queue = upload.bytes_in(round_trip).max(QUEUE_BYTES_MIN).to_string();
        tc(&["qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "1"])?;
        let class = ["class", "add", "dev", device, "parent", "1:", "classid", "1:1", "htb"];
        tc(&[&class[..], &["rate", &rate, "burst", "16k", "cburst", "16k"]].concat())?;
        tc(&["qdisc", "add", "dev", device, "parent", "1:1", "bfifo", "limit", &queue])
    }
}
