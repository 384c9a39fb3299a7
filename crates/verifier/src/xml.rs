//! A small XML document, and its canonical form (XML 1.0; Namespaces in XML 1.0; Canonical XML 1.1).
//!
//! quick-xml reads events; what is kept of them is bounded here. Document types, and with them every entity of an
//! author's own, processing instructions and attributes of the `xml:` prefix are refused, and so nothing is left of
//! Canonical XML 1.1 that differs from 1.0. Comments are dropped, as the form without comments demands.

use std::collections::BTreeMap;
use std::sync::Arc;

use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// An element with all that is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Element {
    prefix: String,
    /// The name without its prefix.
    pub(crate) name: String,
    /// The namespace's URI; empty when there is none.
    pub(crate) namespace: String,
    attributes: Vec<Attribute>,
    /// The prefixes in scope, and what each stands for. The default namespace has the empty prefix.
    scope: Arc<BTreeMap<String, String>>,
    children: Vec<Node>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Node {
    Element(Element),
    Text(String),
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Attribute {
    prefix: String,
    name: String,
    namespace: String,
    value: String,
}

impl Element {
    /// Parses a document and returns its root element.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, XmlError> {
        if document.len() > MAX_BYTES {
            return Err(XmlError::TooLong { limit: MAX_BYTES });
        }
        let text = std::str::from_utf8(document).map_err(|e| malformed(e.to_string()))?;
        // XML 1.0, 2.11: a line ends in one line feed, whatever it ended in.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut reader = Reader::from_str(&text);
        reader.config_mut().check_comments = true;
        let mut open: Vec<Self> = Vec::new();
        let mut root = None;
        let mut nodes = 0_usize;
        loop {
            let event = reader.read_event().map_err(|e| malformed(e.to_string()))?;
            nodes += 1;
            if nodes > MAX_NODES {
                return Err(XmlError::TooMany { limit: MAX_NODES });
            }
            match event {
                Event::Start(_) | Event::Empty(_) if root.is_some() => {
                    return Err(malformed("more than one root element"));
                }
                Event::Start(start) => {
                    if open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep { limit: MAX_DEPTH });
                    }
                    open.push(Self::start(&start, open.last())?);
                }
                Event::Empty(start) => {
                    let element = Self::start(&start, open.last())?;
                    close(element, &mut open, &mut root);
                }
                Event::End(_) => {
                    let element = open
                        .pop()
                        .ok_or_else(|| malformed("an element ends that did not start"))?;
                    close(element, &mut open, &mut root);
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|e| malformed(e.to_string()))?;
                    push_text(&mut open, &text)?;
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|e| malformed(e.to_string()))?;
                    push_text(&mut open, &text)?;
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|e| malformed(e.to_string()))?;
                    push_text(&mut open, resolve(&name)?.encode_utf8(&mut [0; 4]))?;
                }
                Event::Comment(_) => {}
                Event::Decl(_) if nodes == 1 => {}
                Event::Decl(_) | Event::PI(_) => {
                    return Err(malformed("a processing instruction"));
                }
                Event::DocType(_) => return Err(malformed("a document type")),
                Event::Eof if open.is_empty() => {
                    return root.ok_or_else(|| malformed("no element"));
                }
                Event::Eof => return Err(malformed("an element does not end")),
            }
        }
    }

    fn start(start: &BytesStart<'_>, parent: Option<&Self>) -> Result<Self, XmlError> {
        let mut scope = parent
            .map(|parent| parent.scope.clone())
            .unwrap_or_default();
        let mut plain = Vec::new();
        for (count, attribute) in start.attributes().enumerate() {
            if count >= MAX_ATTRIBUTES {
                return Err(XmlError::TooMany {
                    limit: MAX_ATTRIBUTES,
                });
            }
            let attribute = attribute.map_err(|e| malformed(e.to_string()))?;
            let (prefix, name) = qualified(attribute.key.as_ref())?;
            let raw =
                std::str::from_utf8(&attribute.value).map_err(|e| malformed(e.to_string()))?;
            let value = attribute_value(raw)?;
            let declares = prefix == "xmlns" || (prefix.is_empty() && name == "xmlns");
            if declares && (name.len() > MAX_NAMESPACE || value.len() > MAX_NAMESPACE) {
                return Err(malformed(format!(
                    "a prefix or namespace has at most {MAX_NAMESPACE} bytes"
                )));
            }
            match (prefix.as_str(), name.as_str()) {
                ("", "xmlns") => {
                    Arc::make_mut(&mut scope).insert(String::new(), value);
                }
                ("xmlns", _) if value.is_empty() || name == "xml" || name == "xmlns" => {
                    return Err(malformed(format!(
                        "the prefix {name:?} cannot be declared so"
                    )));
                }
                ("xmlns", _) => {
                    Arc::make_mut(&mut scope).insert(name, value);
                }
                ("xml", _) => return Err(malformed(format!("the attribute xml:{name}"))),
                _ => plain.push((prefix, name, value)),
            }
        }
        if scope.len() > MAX_PREFIXES {
            return Err(XmlError::TooMany {
                limit: MAX_PREFIXES,
            });
        }
        let namespace_of = |prefix: &str| match scope.get(prefix) {
            Some(namespace) => Ok(namespace.clone()),
            None if prefix.is_empty() => Ok(String::new()),
            None => Err(malformed(format!("the prefix {prefix:?} is not declared"))),
        };
        let (prefix, name) = qualified(start.name().as_ref())?;
        let namespace = namespace_of(&prefix)?;
        let mut attributes = Vec::with_capacity(plain.len());
        for (prefix, name, value) in plain {
            // Namespaces in XML 1.0, 6.2: the default namespace is not one of attributes.
            let namespace = match prefix.is_empty() {
                true => String::new(),
                false => namespace_of(&prefix)?,
            };
            attributes.push(Attribute {
                prefix,
                name,
                namespace,
                value,
            });
        }
        // Canonical XML 1.1, 2.2: by namespace, then by name.
        attributes.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if attributes
            .windows(2)
            .any(|pair| matches!(pair, [a, b] if a.namespace == b.namespace && a.name == b.name))
        {
            return Err(malformed("an attribute occurs twice"));
        }
        Ok(Self {
            prefix,
            name,
            namespace,
            attributes,
            scope,
            children: Vec::new(),
        })
    }

    /// The elements directly in this one.
    pub(crate) fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The one element of this name directly in this one.
    pub(crate) fn only(&self, namespace: &str, name: &str) -> Result<&Self, XmlError> {
        let mut found = self
            .elements()
            .filter(|element| element.is(namespace, name));
        match (found.next(), found.next()) {
            (Some(element), None) => Ok(element),
            (None, _) => Err(malformed(format!("no {name} in {}", self.name))),
            _ => Err(malformed(format!("more than one {name} in {}", self.name))),
        }
    }

    /// Whether it has this name.
    pub(crate) fn is(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The value of an attribute. One without a prefix has the namespace "".
    pub(crate) fn attribute(&self, namespace: &str, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|attribute| attribute.namespace == namespace && attribute.name == name)
            .map(|attribute| attribute.value.as_str())
    }

    /// Its text; an element in it is refused.
    pub(crate) fn text(&self) -> Result<String, XmlError> {
        self.children
            .iter()
            .map(|node| match node {
                Node::Text(text) => Ok(text.as_str()),
                Node::Element(_) => Err(malformed(format!(
                    "an element where {} has text",
                    self.name
                ))),
            })
            .collect()
    }

    /// The element without its direct children of one name: `XMLDSig`'s enveloped-signature transform.
    pub(crate) fn without(&self, namespace: &str, name: &str) -> Self {
        let mut rest = self.clone();
        rest.children.retain(|node| match node {
            Node::Element(element) => !element.is(namespace, name),
            Node::Text(_) => true,
        });
        rest
    }

    /// Canonical XML 1.1 without comments, of the subtree that starts here.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let mut out = String::new();
        self.print(&mut out, &BTreeMap::new());
        out.into_bytes()
    }

    /// The depth of the recursion is the document's, at most `MAX_DEPTH`.
    fn print(&self, out: &mut String, printed: &BTreeMap<String, String>) {
        let qualified = |prefix: &str, name: &str| match prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{prefix}:{name}"),
        };
        let element = qualified(&self.prefix, &self.name);
        out.push('<');
        out.push_str(&element);
        for (prefix, namespace) in self.scope.iter() {
            let known = printed.get(prefix).map_or("", String::as_str);
            if known != namespace {
                out.push_str(if prefix.is_empty() {
                    " xmlns"
                } else {
                    " xmlns:"
                });
                out.push_str(prefix);
                out.push_str("=\"");
                escape(namespace, true, out);
                out.push('"');
            }
        }
        for attribute in &self.attributes {
            out.push(' ');
            out.push_str(&qualified(&attribute.prefix, &attribute.name));
            out.push_str("=\"");
            escape(&attribute.value, true, out);
            out.push('"');
        }
        out.push('>');
        for node in &self.children {
            match node {
                Node::Element(element) => element.print(out, &self.scope),
                Node::Text(text) => escape(text, false, out),
            }
        }
        out.push_str("</");
        out.push_str(&element);
        out.push('>');
    }
}

/// Why a text is no document that is read here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum XmlError {
    #[error("it has more than {limit} bytes")]
    TooLong { limit: usize },
    #[error("it has more than {limit} nodes or attributes")]
    TooMany { limit: usize },
    #[error("its elements are nested deeper than {limit}")]
    TooDeep { limit: usize },
    #[error("the XML is refused: {0}")]
    Malformed(String),
}

pub(crate) fn malformed(why: impl Into<String>) -> XmlError {
    XmlError::Malformed(why.into())
}

fn close(element: Element, open: &mut [Element], root: &mut Option<Element>) {
    match open.last_mut() {
        Some(parent) => parent.children.push(Node::Element(element)),
        None => *root = Some(element),
    }
}

fn push_text(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    let Some(element) = open.last_mut() else {
        return match text.trim().is_empty() {
            true => Ok(()),
            false => Err(malformed("text outside the root element")),
        };
    };
    match element.children.last_mut() {
        Some(Node::Text(before)) => before.push_str(text),
        _ => element.children.push(Node::Text(text.to_owned())),
    }
    Ok(())
}

/// A name, split at its colon.
fn qualified(name: &[u8]) -> Result<(String, String), XmlError> {
    let name = std::str::from_utf8(name).map_err(|e| malformed(e.to_string()))?;
    let plain = |part: &str| {
        part.starts_with(|first: char| first.is_alphabetic() || first == '_')
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    let (prefix, local) = name.split_once(':').unwrap_or(("", name));
    match plain(local) && (prefix.is_empty() || plain(prefix)) {
        true => Ok((prefix.to_owned(), local.to_owned())),
        false => Err(malformed("a name that is none")),
    }
}

/// XML 1.0, 3.3.3: white space becomes a space, references are resolved.
fn attribute_value(raw: &str) -> Result<String, XmlError> {
    let mut value = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['&', '<', '\n', '\t']) {
        let (before, from) = rest.split_at(at);
        value.push_str(before);
        let mut chars = from.chars();
        rest = match chars.next() {
            Some('&') => {
                let (name, after) = chars
                    .as_str()
                    .split_once(';')
                    .ok_or_else(|| malformed("a reference that does not end"))?;
                value.push(resolve(name)?);
                after
            }
            Some('<') => return Err(malformed("a `<` in an attribute")),
            _ => {
                value.push(' ');
                chars.as_str()
            }
        };
    }
    value.push_str(rest);
    Ok(value)
}

/// XML 1.0, 4.1 and 4.6: a character's number, or one of the five names that need no declaration.
fn resolve(name: &str) -> Result<char, XmlError> {
    let number = match (name, name.strip_prefix('#')) {
        ("amp", _) => return Ok('&'),
        ("lt", _) => return Ok('<'),
        ("gt", _) => return Ok('>'),
        ("quot", _) => return Ok('"'),
        ("apos", _) => return Ok('\''),
        (_, Some(number)) => match number.strip_prefix('x') {
            Some(number) => u32::from_str_radix(number, 16).ok(),
            None => number.parse().ok(),
        },
        _ => None,
    };
    number
        .and_then(char::from_u32)
        .filter(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))
        .ok_or_else(|| malformed("a reference to an entity that is not declared"))
}

/// Canonical XML 1.1, 2.3.
fn escape(text: &str, attribute: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '\r' => out.push_str("&#xD;"),
            '>' if !attribute => out.push_str("&gt;"),
            '"' if attribute => out.push_str("&quot;"),
            '\t' if attribute => out.push_str("&#x9;"),
            '\n' if attribute => out.push_str("&#xA;"),
            other => out.push(other),
        }
    }
}

/// NVIDIA's manifests have 20 KiB.
const MAX_BYTES: usize = 512 * 1024;
const MAX_NODES: usize = 16_384;
const MAX_ATTRIBUTES: usize = 128;
/// An element that declares prefixes holds a copy of its scope; the others share their parent's.
const MAX_PREFIXES: usize = 16;
const MAX_DEPTH: usize = 16;
/// The longest of NVIDIA's has 103 bytes.
const MAX_NAMESPACE: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        String::from_utf8(Element::parse(text.as_bytes()).unwrap().canonical()).unwrap()
    }

    #[test]
    fn canonical_form_is_that_of_the_specification() {
        for (text, wanted) in [
            // Canonical XML 1.1, 3.3 (start and end tags), in part.
            (
                "<doc>\n   <e1   />\n</doc  >",
                "<doc>\n   <e1></e1>\n</doc>",
            ),
            (
                r#"<e3   name = "elem3"   id="elem3"   />"#,
                r#"<e3 id="elem3" name="elem3"></e3>"#,
            ),
            (
                r#"<e5 a:attr="out" b:attr="sorted" attr2="all" attr="I'm" xmlns:b="http://www.ietf.org" xmlns:a="http://www.w3.org" xmlns="http://example.org"/>"#,
                r#"<e5 xmlns="http://example.org" xmlns:a="http://www.w3.org" xmlns:b="http://www.ietf.org" attr="I'm" attr2="all" b:attr="sorted" a:attr="out"></e5>"#,
            ),
            (
                r#"<e6 xmlns="" xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns="" xmlns:a="http://www.w3.org"/></e7></e6>"#,
                r#"<e6 xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns=""></e8></e7></e6>"#,
            ),
            // 3.4 (characters and references).
            (
                "<text>First line&#x0d;&#10;Second line</text>",
                "<text>First line&#xD;\nSecond line</text>",
            ),
            ("<value>&#x32;</value>", "<value>2</value>"),
            (
                "<value><![CDATA[value>\"0\" && value<\"10\" ?\"valid\":\"error\"]]></value>",
                "<value>value&gt;\"0\" &amp;&amp; value&lt;\"10\" ?\"valid\":\"error\"</value>",
            ),
            (
                r#"<norm attr=' &apos;   &#x20;&#13;&#xa;&#9;   &apos; '/>"#,
                "<norm attr=\" '    &#xD;&#xA;&#x9;   ' \"></norm>",
            ),
            (
                "<?xml version=\"1.0\"?><a><!-- gone --> b </a>\n",
                "<a> b </a>",
            ),
            ("<a>1\r\n2\r3</a>", "<a>1\n2\n3</a>"),
        ] {
            assert_eq!(canonical(text), wanted);
        }
    }

    #[test]
    fn what_could_hide_or_grow_is_refused() {
        for text in [
            "",
            "text",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "<a>&b;</a>",
            "<a b='&c;'/>",
            "<a>&#0;</a>",
            "<a>&#xD800;</a>",
            "<a><?b c?></a>",
            "<a b='1' b='2'/>",
            "<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>",
            "<p:a/>",
            "<a p:b='1'/>",
            "<a xml:lang='en'/>",
            "<a xmlns:p=''/>",
            "<a b='<'/>",
            "<a b=c/>",
            "<a b/>",
        ] {
            assert!(
                matches!(Element::parse(text.as_bytes()), Err(XmlError::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!(
            Element::parse(b"<a>\xff</a>"),
            Err(XmlError::Malformed(_))
        ));
    }

    #[test]
    fn document_that_is_too_deep_long_or_full_is_refused() {
        let deep = "<a>".repeat(100_000);
        assert_eq!(
            Element::parse(deep.as_bytes()),
            Err(XmlError::TooDeep { limit: MAX_DEPTH })
        );
        let full = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES));
        assert_eq!(
            Element::parse(full.as_bytes()),
            Err(XmlError::TooMany { limit: MAX_NODES })
        );
        let long = " ".repeat(MAX_BYTES + 1);
        assert_eq!(
            Element::parse(long.as_bytes()),
            Err(XmlError::TooLong { limit: MAX_BYTES })
        );
        let attributes: String = (0..200).map(|n| format!(" a{n}='1'")).collect();
        assert_eq!(
            Element::parse(format!("<a{attributes}/>").as_bytes()),
            Err(XmlError::TooMany {
                limit: MAX_ATTRIBUTES
            })
        );
    }

    /// Every element inherits it, and a copy for each would take gigabytes.
    #[test]
    fn namespace_of_a_great_length_is_refused() {
        let long = "n".repeat(MAX_NAMESPACE + 1);
        for text in [
            format!("<a xmlns='{long}'/>"),
            format!("<a xmlns:p='{long}'>{}</a>", "<b/>".repeat(100)),
            format!("<a {long}:b='1' xmlns:{long}='c'/>"),
        ] {
            let error = Element::parse(text.as_bytes()).unwrap_err();
            assert!(
                matches!(&error, XmlError::Malformed(why) if why.contains("at most")),
                "{error}"
            );
        }
    }
}
