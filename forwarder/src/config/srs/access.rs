//! A vhost's blocks that say who may come.
use super::super::values::Listed;
use super::super::{Hooks, HttpUrl, Network, Refer, Security};
use super::parse::Directive;
use super::{ConfigError, Import, known};

impl Import {
    /// `security { allow|deny publish|play all|ip|cidr; }`
    pub(super) fn security(
        &mut self,
        security: &mut Security,
        directive: &Directive,
        block: &[Directive],
    ) -> Result<(), ConfigError> {
        security.enabled = self.block_enabled(directive);
        for inner in self.first_of_each(block.iter().collect(), &["allow", "deny"]) {
            let allows = match inner.name.text.as_str() {
                "enabled" => continue,
                "allow" => true,
                "deny" => false,
                _ => return Err(self.unknown(inner, known::SECURITY, &[])),
            };
            let [action, from, rest @ ..] = inner.args.as_slice() else {
                let message = "a rule is an action and an address\nwrite `deny publish all;`";
                return Err(self.sources.error(inner.name.at, message));
            };
            if let Some(extra) = rest.first() {
                return Err(self.sources.error(extra.at, "one address to a rule"));
            }
            let rules = match (action.text.as_str(), allows) {
                ("publish", true) => &mut security.allow_publish,
                ("publish", false) => &mut security.deny_publish,
                ("play", true) => &mut security.allow_play,
                ("play", false) => &mut security.deny_play,
                _ => return Err(self.bad_value(action, "publish or play")),
            };
            let network: Network = self.read(from, str::parse)?;
            if !rules.contains(&network) {
                rules.push(network);
            }
        }
        Ok(())
    }

    /// `refer { all domain...; publish domain...; play domain...; }`, and the three directives
    /// without a block that SRS 1 had.
    pub(super) fn refer(
        &mut self,
        refer: &mut Refer,
        directive: &Directive,
        block: &[Directive],
    ) -> Result<(), ConfigError> {
        if directive.block.is_none() {
            let domains = self.listed(directive)?;
            match directive.name.text.as_str() {
                "refer_publish" => refer.publish = domains,
                "refer_play" => refer.play = domains,
                _ => refer.all = domains,
            }
            refer.enabled = true;
            return Ok(());
        }
        refer.enabled = self.block_enabled(directive);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            match inner.name.text.as_str() {
                "enabled" => {}
                "all" => refer.all = self.listed(inner)?,
                "publish" => refer.publish = self.listed(inner)?,
                "play" => refer.play = self.listed(inner)?,
                _ => return Err(self.unknown(inner, known::REFER, &[])),
            }
        }
        Ok(())
    }

    /// `http_hooks { on_publish url...; }`
    pub(super) fn http_hooks(
        &mut self,
        hooks: &mut Hooks,
        directive: &Directive,
        block: &[Directive],
    ) -> Result<(), ConfigError> {
        hooks.enabled = self.block_enabled(directive);
        for inner in self.first_of_each(block.iter().collect(), &[]) {
            let urls: &mut Vec<HttpUrl> = match inner.name.text.as_str() {
                "on_connect" => &mut hooks.on_connect,
                "on_close" => &mut hooks.on_close,
                "on_publish" => &mut hooks.on_publish,
                "on_unpublish" => &mut hooks.on_unpublish,
                "on_play" => &mut hooks.on_play,
                "on_stop" => &mut hooks.on_stop,
                "enabled" => continue,
                "on_dvr" | "on_hls" | "on_hls_notify" => {
                    if hooks.enabled {
                        self.note(inner, "forwarder writes no files to tell of");
                    }
                    continue;
                }
                _ => return Err(self.unknown(inner, known::HOOKS, &[])),
            };
            // What is off may name what is not supported.
            if hooks.enabled {
                *urls = self.listed(inner)?;
            }
        }
        Ok(())
    }

    fn listed<T: Listed>(&self, directive: &Directive) -> Result<Vec<T>, ConfigError> {
        self.list(directive, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }
}
