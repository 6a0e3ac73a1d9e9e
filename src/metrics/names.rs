//! What the counters are called, and what they mean, for those who scrape them.
//!
//! Enters: the counters. Leaves: their names in a registry, once. Must not touch: what is counted.

use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

impl Metrics {
    /// Names every metric in `registry`, which shares the counters. To be done once for a registry.
    pub fn register(&self, registry: &mut Registry) {
        let of = registry.sub_registry_with_prefix("underpass");
        self.register_sessions(of);
        self.register_rest(of);
    }

    // The encoder adds the unit, and `_total` to counters, and a full stop to the help.
    fn register_sessions(&self, of: &mut Registry) {
        of.register("sessions_opened", "Sessions opened", self.opened.clone());
        of.register("sessions_ended", "Sessions ended, by reason", self.ended.clone());
        of.register("sessions_active", "Sessions alive, by the transport attached now", self.active.clone());
        of.register("session_resumes", "Clients that came back for a session, by result", self.resumes.clone());
        let help = "Sessions by the transport that carried them first, and why it was no better one";
        of.register("session_transports", help, self.firsts.clone());
        of.register("transport_changes", "Sessions carried on by another transport", self.changes.clone());
        of.register("pauses", "Times a backend was not read because its client was behind", self.pauses.clone());
        of.register(
            "memory_waits",
            "Times a backend, a client's WebSocket or a send had to wait because memory was short",
            self.memory_waits.clone(),
        );
        of.register("messages", "Messages carried; up messages have the transport any", self.messages.clone());
        let help = "Payload of the messages carried; up messages have the transport any";
        of.register_with_unit("message", help, Unit::Bytes, self.message_bytes.clone());
        let help = "Delay we add to a message: from its arrival from the backend to its handing to the client's writer";
        of.register_with_unit("delivery_delay", help, Unit::Seconds, self.delays.clone());
        of.register("refusals", "Requests refused, by error code", self.refusals.clone());
    }

    fn register_rest(&self, of: &mut Registry) {
        of.register("tunnels_opened", "WebSockets passed through", self.tunnels.clone());
        of.register("tunnels_active", "WebSockets passed through that are open", self.tunnels_active.clone());
        of.register_with_unit("tunnel", "Bytes through tunnels", Unit::Bytes, self.tunnel_bytes.clone());
        let help = "Plain HTTP requests proxied, by class of the backend's status; none when it gave no valid answer";
        of.register("proxied_requests", help, self.proxied.clone());
        let help = "Plain HTTP requests made again on a new connection, because the kept one had just ended";
        of.register("proxied_requests_repeated", help, self.repeated.clone());
        of.register("proxied_requests_active", "Plain HTTP requests in flight", self.proxied_active.clone());
        of.register("connections_accepted", "Connections of clients accepted", self.connections.clone());
        of.register("connections_active", "Connections of clients that are open", self.connections_active.clone());
        let help = "Connections of clients that had to wait because there were as many as there may be";
        of.register("connections_full", help, self.connections_full.clone());
        of.register("limited", "Refusals because one client has or does as much as one may", self.limited.clone());
        of.register("tls_handshake_failures", "TLS handshakes of clients that failed", self.handshake_failures.clone());
        let help = "Connections closed because they had no PROXY header that counts, by reason";
        of.register("proxy_header_failures", help, self.unintroduced.clone());
        of.register("dial_waits", "Requests that waited for their turn to dial a backend", self.dial_waits.clone());
        of.register(
            "dial_waits_active",
            "Requests that wait now for their turn to dial",
            self.dial_waits_active.clone(),
        );
        of.register("config_reloads", "Reloads of the configuration, by result", self.reloads.clone());
        let help = "Whether the last reload was applied, certificates included; 1 from the start on";
        of.register("config_last_reload_successful", help, self.reload_successful.clone());
        let help = "When the configuration in force was read, in seconds since 1970";
        let name = "config_last_reload_success_timestamp";
        of.register_with_unit(name, help, Unit::Seconds, self.reload_success.clone());
        self.handover.register(of);
        of.register("sessions_limit", "Sessions that there may be", self.sessions_limit.clone());
        of.register("connections_limit", "Connections of clients that there may be", self.connections_limit.clone());
    }
}
