//! A vhost's blocks.
use std::time::Duration;

use super::super::{
    DestinationError, Edge, Forward, ForwardTarget, ForwardTargetError, HttpUrlError, Play,
    Publish, Vhost, values,
};
use super::parse::Directive;
use super::{ConfigError, Import, known};

impl Import {
    pub(super) fn vhost(&mut self, directive: &Directive) -> Result<(), ConfigError> {
        let word = self.one(directive)?;
        let name = self.read(word, values::parse_vhost_name)?;
        if self.config.vhosts.iter().any(|vhost| vhost.name == name) {
            let message = format!("vhost `{name}` stands here twice");
            return Err(self.sources.error(word.at, &message));
        }
        let mut vhost = Vhost { name, ..self.new_vhost() };
        let block = directive.block.as_deref().unwrap_or_default();
        for inner in self.first_of_each(block.iter().collect(), &["transcode", "ingest"]) {
            self.vhost_directive(&mut vhost, inner)?;
        }
        self.config.vhosts.push(vhost);
        Ok(())
    }

    fn vhost_directive(
        &mut self,
        vhost: &mut Vhost,
        directive: &Directive,
    ) -> Result<(), ConfigError> {
        let block = directive.block.as_deref().unwrap_or_default();
        match directive.name.text.as_str() {
            "enabled" => vhost.enabled = self.not_off(directive),
            "chunk_size" => vhost.chunk_size = self.chunk_size(directive)?,
            "tcp_nodelay" => vhost.tcp_nodelay = self.on(directive),
            // Asks for what happens anyway.
            "min_latency" => {}
            "in_ack_size" => vhost.in_ack_size = self.number(directive, 0, values::ACK_SIZE_MAX)?,
            "out_ack_size" => {
                vhost.out_ack_size = self.number(directive, 1, values::ACK_SIZE_MAX)?;
            }
            "play" => {
                for inner in self.first_of_each(block.iter().collect(), &[]) {
                    if !self.play(&mut vhost.play, &mut vhost.forward, inner)? {
                        return Err(self.unknown(inner, known::PLAY, &[known::PLAY_IDLE]));
                    }
                }
            }
            "publish" => {
                for inner in self.first_of_each(block.iter().collect(), &[]) {
                    self.publish(&mut vhost.publish, inner)?;
                }
            }
            "forward" => self.forward(&mut vhost.forward, directive, block)?,
            "cluster" => self.cluster(&mut vhost.edge, directive, block)?,
            "http_remux" => self.http_remux(&mut vhost.http_remux, directive, block)?,
            "security" => self.security(&mut vhost.security, directive, block)?,
            "refer" | "refer_play" | "refer_publish" => {
                self.refer(&mut vhost.refer, directive, block)?;
            }
            "http_hooks" => self.http_hooks(&mut vhost.hooks, directive, block)?,
            name => {
                if let Some((_, why)) =
                    known::VHOST_REFUSED.iter().find(|(known, _)| *known == name)
                {
                    if self.block_enabled(directive) {
                        return Err(self.unsupported(directive, why));
                    }
                } else if !self.feature(directive, known::VHOST_FEATURES)
                    // SRS 1 and 2 had the directives of `play` in the vhost itself.
                    && !self.play(&mut vhost.play, &mut vhost.forward, directive)?
                {
                    return Err(self.unknown_in_vhost(directive));
                }
            }
        }
        Ok(())
    }

    fn unknown_in_vhost(&self, directive: &Directive) -> ConfigError {
        let refused = known::VHOST_REFUSED.iter().map(|(name, _)| *name);
        let names: Vec<&str> = known::VHOST.iter().copied().chain(refused).collect();
        self.unknown(directive, &names, &[known::VHOST_FEATURES, known::PLAY_IDLE])
    }

    /// Whether the directive is one of `play`'s. SRS's forwards take their queue's length from it.
    fn play(
        &mut self,
        play: &mut Play,
        forward: &mut Forward,
        directive: &Directive,
    ) -> Result<bool, ConfigError> {
        match directive.name.text.as_str() {
            "gop_cache" => play.gop_cache = self.not_off(directive),
            "gop_cache_max_frames" => {
                let frames: usize = self.number(directive, 0, values::GOP_FRAMES_MAX)?;
                if frames == 0 {
                    self.note(directive, "there is always a bound");
                } else {
                    play.gop_cache_max_frames = frames;
                }
            }
            "queue_length" => {
                play.queue_length = self.timeout(directive, Duration::from_secs)?;
                forward.queue_length = play.queue_length;
            }
            "mw_latency" => {
                let most = i64::from(u32::MAX);
                let latency = Duration::from_millis(self.number(directive, 0, most)?);
                play.mw_latency = self.read(self.one(directive)?, |_| values::bounded(latency))?;
            }
            _ => return Ok(self.idle(directive, known::PLAY_IDLE)),
        }
        Ok(true)
    }

    fn publish(&mut self, publish: &mut Publish, directive: &Directive) -> Result<(), ConfigError> {
        match directive.name.text.as_str() {
            "firstpkt_timeout" => {
                publish.firstpkt_timeout = self.timeout(directive, Duration::from_millis)?;
            }
            "normal_timeout" => {
                publish.normal_timeout = self.timeout(directive, Duration::from_millis)?;
            }
            _ => {
                if !self.idle(directive, known::PUBLISH_IDLE) {
                    return Err(self.unknown(directive, known::PUBLISH, &[known::PUBLISH_IDLE]));
                }
            }
        }
        Ok(())
    }

    fn forward(
        &mut self,
        forward: &mut Forward,
        directive: &Directive,
        block: &[Directive],
    ) -> Result<(), ConfigError> {
        let form = |text: &str| text.parse().map_err(|error: ForwardTargetError| error.to_string());
        // SRS 1 and 2: `forward host:port host:port;` in the vhost itself.
        if directive.block.is_none() {
            forward.destination = self.list::<ForwardTarget>(directive, form)?;
            forward.enabled = true;
            return Ok(());
        }
        let enabled = self.block_enabled(directive);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => {}
                "destination" if enabled && block.iter().any(|it| it.name.text == "backend") => {
                    self.note(inner, "with a backend SRS forwards to what that says alone");
                }
                "destination" => forward.destination = self.list(inner, form)?,
                "backend" if enabled => {
                    let word = self.one(inner)?;
                    let form = |text: &str| text.parse().map_err(|e: HttpUrlError| e.to_string());
                    forward.backend = Some(self.read(word, form)?);
                }
                "backend" => {}
                _ => return Err(self.unknown(inner, known::FORWARD, &[])),
            }
        }
        forward.enabled = enabled && forward.has_destination();
        if enabled && !forward.enabled {
            self.note(directive, "it has no destination");
        }
        Ok(())
    }

    fn cluster(
        &mut self,
        edge: &mut Edge,
        directive: &Directive,
        block: &[Directive],
    ) -> Result<(), ConfigError> {
        let form = |text: &str| text.parse().map_err(|error: DestinationError| error.to_string());
        let word = |inner: &Directive| inner.args.first().map_or("", |word| &word.text).to_owned();
        let inners = self.first_of_each(block.iter().collect(), &[]);
        let remote = |inner: &&Directive| inner.name.text == "mode" && word(inner) == "remote";
        edge.enabled = inners.iter().copied().any(|inner| remote(&inner));
        for inner in inners {
            match (inner.name.text.as_str(), word(inner).as_str()) {
                ("origin_cluster", "on") => {
                    let why = "players would not be sent to the origin that has their stream";
                    return Err(self.unsupported(inner, why));
                }
                ("origin", _) if edge.enabled => edge.origin = self.list(inner, form)?,
                ("vhost", _) if edge.enabled => {
                    edge.vhost = self.read(self.one(inner)?, values::parse_origin_vhost)?;
                }
                ("token_traverse", _) if edge.enabled => edge.token_traverse = self.on(inner),
                ("protocol", "flv" | "flvs") if edge.enabled => {
                    return Err(self.unsupported(inner, "origins would be asked by RTMP"));
                }
                ("follow_client", "on") if edge.enabled => {
                    self.note(inner, "origins are asked by RTMP");
                }
                // The rest means something for SRS among itself or for another mode only.
                (name, _) if known::CLUSTER.contains(&name) => {}
                _ => return Err(self.unknown(inner, known::CLUSTER, &[])),
            }
        }
        if edge.enabled && edge.origin.is_empty() {
            let message = "an edge needs an origin\nadd `origin host:1935;`";
            return Err(self.sources.error(directive.name.at, message));
        }
        Ok(())
    }

    fn timeout(
        &self,
        directive: &Directive,
        unit: fn(u64) -> Duration,
    ) -> Result<Duration, ConfigError> {
        let duration = unit(self.number(directive, 0, i64::from(u32::MAX))?);
        self.read(self.one(directive)?, |_| values::at_least_a_moment(duration))
    }
}
