//! The config document of a resource: what it says in place of the relay's own defaults. Pure.

use backupmx_relay_api::config::{self, Document};

use super::{AUTHORITIES_FILE, AUTHORITIES_FOLDER, Refusal, count, is_domain, read};
use crate::crd::{
    AtExpiry, BackupMxSpec, Breaker, Delivery, Depth, Etrn, Host, Limits, Maintenance, Order, Primary, PrimaryTls,
    Probe, ProxyProtocol, Recipients, Retention, TlsMode, UnknownRecipients, WhenPrimaryUp,
};

pub(super) fn of(spec: &BackupMxSpec, generation: i64) -> Result<Document, Refusal> {
    Ok(Document {
        generation,
        domains: spec.domains.clone(),
        hostname: spec.hostname.clone(),
        primary: primary(&spec.primary)?,
        when_primary_up: match spec.when_primary_up {
            WhenPrimaryUp::PassThrough => config::WhenPrimaryUp::PassThrough,
            WhenPrimaryUp::Queue => config::WhenPrimaryUp::Queue,
        },
        recipients: recipients(&spec.recipients),
        limits: limits(&spec.limits)?,
        retention: retention(&spec.retention)?,
        proxy_protocol: proxy_protocol(&spec.proxy_protocol),
        etrn: etrn(&spec.etrn),
        ..Document::default() // what is observed decides about `schema` and `cordoned`
    })
}

fn primary(primary: &Primary) -> Result<config::Primary, Refusal> {
    let Primary { hosts, tls, probe, delivery, breaker, maintenance } = primary;
    Ok(config::Primary {
        hosts: hosts.iter().map(host).collect::<Result<_, _>>()?,
        tls: primary_tls(tls)?,
        probe: self::probe(probe)?,
        delivery: self::delivery(delivery)?,
        breaker: self::breaker(breaker)?,
        maintenance: maintenance.as_ref().map(self::maintenance).transpose()?,
    })
}

fn host(host: &Host) -> Result<config::Host, Refusal> {
    let Host { host, port, xclient } = host;
    let no_port = |_| Refusal::value("primary.hosts", format!("{port} is no port; write one from 1 to 65535"));
    let port = u16::try_from(*port).map_err(no_port)?;
    Ok(config::Host { host: host.clone(), port, xclient: *xclient })
}

fn primary_tls(tls: &PrimaryTls) -> Result<config::PrimaryTls, Refusal> {
    let PrimaryTls { mode, server_name, ca_secret_ref, remember_starttls } = tls;
    let mode = match mode {
        TlsMode::None => config::TlsMode::None,
        TlsMode::Opportunistic => config::TlsMode::Opportunistic,
        TlsMode::Encrypt => config::TlsMode::Encrypt,
        TlsMode::Verify => config::TlsMode::Verify,
    };
    let ca_file = ca_secret_ref.as_ref().map(|_| format!("{AUTHORITIES_FOLDER}/{AUTHORITIES_FILE}"));
    let mut made =
        config::PrimaryTls { mode, server_name: server_name.clone(), ca_file, ..config::PrimaryTls::default() };
    read("primary.tls.rememberStarttls", remember_starttls.as_ref(), &mut made.remember_starttls)?;
    Ok(made)
}

fn probe(probe: &Probe) -> Result<config::Probe, Refusal> {
    let Probe {
        interval,
        interval_while_queued,
        interval_while_refusing_max,
        connect_timeout,
        timeout,
        failure_threshold,
        success_threshold,
        depth,
        recipient,
        slow_after,
        renew_for_client_after,
    } = probe;
    let mut made = config::Probe::default();
    read("primary.probe.interval", interval.as_ref(), &mut made.interval)?;
    read("primary.probe.intervalWhileQueued", interval_while_queued.as_ref(), &mut made.interval_while_queued)?;
    let refusing_max = &mut made.interval_while_refusing_max;
    read("primary.probe.intervalWhileRefusingMax", interval_while_refusing_max.as_ref(), refusing_max)?;
    read("primary.probe.connectTimeout", connect_timeout.as_ref(), &mut made.connect_timeout)?;
    read("primary.probe.timeout", timeout.as_ref(), &mut made.timeout)?;
    count("primary.probe.failureThreshold", *failure_threshold, &mut made.failure_threshold)?;
    count("primary.probe.successThreshold", *success_threshold, &mut made.success_threshold)?;
    read("primary.probe.slowAfter", slow_after.as_ref(), &mut made.slow_after)?;
    read("primary.probe.renewForClientAfter", renew_for_client_after.as_ref(), &mut made.renew_for_client_after)?;
    made.depth = match depth.unwrap_or_default() {
        Depth::Connect => config::Depth::Connect,
        Depth::Ehlo => config::Depth::Ehlo,
        Depth::StartTls => config::Depth::StartTls,
        Depth::Recipient => config::Depth::Recipient,
    };
    made.recipient = recipient.as_ref().map(address).transpose()?;
    Ok(made)
}

fn address(text: &String) -> Result<String, Refusal> {
    if text.rsplit_once('@').is_some_and(|(local_part, domain)| !local_part.is_empty() && is_domain(domain)) {
        return Ok(text.clone());
    }
    let reason = format!("{text:?} is no address; write for instance postmaster@example.org");
    Err(Refusal::value("primary.probe.recipient", reason))
}

fn delivery(delivery: &Delivery) -> Result<config::Delivery, Refusal> {
    let Delivery {
        max_connections,
        max_messages_per_connection,
        max_recipients_per_transaction,
        order,
        hold,
        retry_interval,
        retry_interval_max,
        remember_limit,
    } = delivery;
    let mut made = config::Delivery::default();
    count("primary.delivery.maxConnections", *max_connections, &mut made.max_connections)?;
    let per_connection = &mut made.max_messages_per_connection;
    count("primary.delivery.maxMessagesPerConnection", *max_messages_per_connection, per_connection)?;
    let per_transaction = &mut made.max_recipients_per_transaction;
    count("primary.delivery.maxRecipientsPerTransaction", *max_recipients_per_transaction, per_transaction)?;
    read("primary.delivery.retryInterval", retry_interval.as_ref(), &mut made.retry_interval)?;
    read("primary.delivery.retryIntervalMax", retry_interval_max.as_ref(), &mut made.retry_interval_max)?;
    read("primary.delivery.rememberLimit", remember_limit.as_ref(), &mut made.remember_limit)?;
    made.order = match order.unwrap_or_default() {
        Order::OldestFirst => config::Order::OldestFirst,
        Order::NewestFirst => config::Order::NewestFirst,
    };
    made.hold = hold.unwrap_or(made.hold);
    Ok(made)
}

fn breaker(breaker: &Breaker) -> Result<config::Breaker, Refusal> {
    let Breaker { retest_interval, return_window, second_look_after } = breaker;
    let mut made = config::Breaker::default();
    read("primary.breaker.retestInterval", retest_interval.as_ref(), &mut made.retest_interval)?;
    read("primary.breaker.returnWindow", return_window.as_ref(), &mut made.return_window)?;
    read("primary.breaker.secondLookAfter", second_look_after.as_ref(), &mut made.second_look_after)?;
    Ok(made)
}

fn maintenance(maintenance: &Maintenance) -> Result<config::Maintenance, Refusal> {
    let Maintenance { from, until } = maintenance;
    Ok(config::Maintenance {
        from: from.as_ref().map(|text| time("primary.maintenance.from", text)).transpose()?,
        until: until.as_ref().map(|text| time("primary.maintenance.until", text)).transpose()?,
    })
}

fn time(key: &str, text: &str) -> Result<String, Refusal> {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(Refusal::value(key, format!("{text:?} is no time; write for instance 2026-12-24T22:00:00Z"))),
    }
}

fn recipients(recipients: &Recipients) -> config::Recipients {
    let Recipients { unknown } = recipients;
    let unknown = match unknown {
        UnknownRecipients::Accept => config::UnknownRecipients::Accept,
    };
    config::Recipients { unknown }
}

fn limits(limits: &Limits) -> Result<config::Limits, Refusal> {
    let Limits {
        message_size,
        connections,
        connections_per_client,
        recipients,
        errors,
        junk_commands,
        command_line,
        idle_timeout,
        busy_timeout,
        busy_timeout_before_mail,
        memory,
        free_space,
    } = limits;
    let mut made = config::Limits::default();
    read("limits.messageSize", message_size.as_ref(), &mut made.message_size)?;
    count("limits.connections", *connections, &mut made.connections)?;
    count("limits.connectionsPerClient", *connections_per_client, &mut made.connections_per_client)?;
    count("limits.recipients", *recipients, &mut made.recipients)?;
    count("limits.errors", *errors, &mut made.errors)?;
    count("limits.junkCommands", *junk_commands, &mut made.junk_commands)?;
    read("limits.commandLine", command_line.as_ref(), &mut made.command_line)?;
    read("limits.idleTimeout", idle_timeout.as_ref(), &mut made.idle_timeout)?;
    read("limits.busyTimeout", busy_timeout.as_ref(), &mut made.busy_timeout)?;
    let before_mail = &mut made.busy_timeout_before_mail;
    read("limits.busyTimeoutBeforeMail", busy_timeout_before_mail.as_ref(), before_mail)?;
    read("limits.memory", memory.as_ref(), &mut made.memory)?;
    read("limits.freeSpace", free_space.as_ref(), &mut made.free_space)?;
    Ok(made)
}

fn retention(retention: &Retention) -> Result<config::Retention, Refusal> {
    let Retention { queue, at_expiry, undeliverable } = retention;
    let at_expiry = match at_expiry {
        AtExpiry::Hold => config::AtExpiry::Hold,
    };
    let mut made = config::Retention { at_expiry, ..config::Retention::default() };
    read("retention.queue", queue.as_ref(), &mut made.queue)?;
    read("retention.undeliverable", undeliverable.as_ref(), &mut made.undeliverable)?;
    Ok(made)
}

fn proxy_protocol(proxies: &ProxyProtocol) -> config::ProxyProtocol {
    let ProxyProtocol { trusted } = proxies;
    config::ProxyProtocol { trusted: trusted.clone() }
}

fn etrn(etrn: &Etrn) -> config::Etrn {
    let Etrn { allowed } = etrn;
    config::Etrn { allowed: allowed.clone() }
}
