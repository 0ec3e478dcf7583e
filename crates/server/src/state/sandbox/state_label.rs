//! The labels of saved states, by which a server finds its own again.

use fumehood_engine::Language;

use crate::api::object_name::ObjectName;

/// The first word of a label, with the version of its format.
const FORMAT: &str = "fumehood-server-1";

/// The kind of a server's saved state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKind {
    /// The only copy of a paused sandbox.
    Pause,
    /// A checkpoint of a running sandbox, from which it continues if the server is killed.
    Automatic,
    /// A durable checkpoint of a caller.
    Checkpoint,
}

impl StateKind {
    const ALL: [Self; 3] = [Self::Pause, Self::Automatic, Self::Checkpoint];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Automatic => "auto",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// The label of a saved state, with which its owner is found if the record was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateLabel {
    /// The id of the server's state.
    pub(crate) server: String,
    pub(crate) kind: StateKind,
    pub(crate) owner: String,
    /// The id of the sandbox, or of the checkpoint.
    pub(crate) id: String,
    pub(crate) name: Option<ObjectName>,
    pub(crate) language: Option<Language>,
}

impl StateLabel {
    /// Parses the label of a state of this server. Other states belong to others.
    pub(crate) fn parse(text: &str, server: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != FORMAT || words.next()? != server {
            return None;
        }

        let kind = words.next()?;
        let label = Self {
            server: server.to_owned(),
            kind: *StateKind::ALL.iter().find(|one| one.as_str() == kind)?,
            owner: words.next()?.to_owned(),
            id: words.next()?.to_owned(),
            language: Language::ALL
                .into_iter()
                .find(|language| Some(language.as_str()) == words.clone().next()),
            name: words.nth(1)?.parse().ok(),
        };
        words.next().is_none().then_some(label)
    }
}

impl std::fmt::Display for StateLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            server,
            kind,
            owner,
            id,
            ..
        } = self;
        let language = self.language.map_or("-", Language::as_str);
        let name = self.name.as_ref().map_or("-", ObjectName::as_str);
        write!(
            f,
            "{FORMAT} {server} {} {owner} {id} {language} {name}",
            kind.as_str()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_parsed_by_its_own_server_only() {
        let name = "x".repeat(64);
        for (name, language) in [
            (None, None),
            (name.parse().ok(), Some(Language::Javascript)),
        ] {
            let label = StateLabel {
                server: "srv_01jd0000000000000000000000".into(),
                kind: StateKind::Automatic,
                owner: "key_01jd0000000000000000000000".into(),
                id: "sb_01jd00000000000000000000000".into(),
                name,
                language,
            };
            let text = label.to_string();
            // The engine's bound.
            assert!(text.len() <= 256, "{}", text.len());
            assert_eq!(StateLabel::parse(&text, &label.server), Some(label));
            assert_eq!(StateLabel::parse(&text, "srv_other"), None);
        }

        for wrong in [
            "",
            "x",
            "fumehood-server-1 s nothing o i - -",
            "fumehood-server-1 s pause o i - - -",
        ] {
            assert_eq!(StateLabel::parse(wrong, "s"), None, "{wrong}");
        }
    }
}
