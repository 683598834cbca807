//! Parsing and canonicalisation (Canonical XML 1.1, W3C) of the subset of XML that NVIDIA's reference manifests use.
//!
//! A signature covers canonical bytes, so the canonicaliser decides what is signed. This code therefore supports only what
//! the manifests use: elements, attributes, text and namespaces, for which versions 1.0 and 1.1 agree. It refuses
//! everything else before it parses: document types (and so all entities), comments, processing instructions, CDATA
//! sections and character references. After parsing, it refuses attributes of the `xml:` namespace and empty namespaces.

use roxmltree::{Document, Node, NodeType, ParsingOptions};
use thiserror::Error;

/// Largest document that is read, in bytes. NVIDIA's have 21 KB.
pub use cocoon_protocol::gpu::MAX_RIM as MAX_XML;

/// Largest number of nodes. NVIDIA's documents have 160.
const MAX_NODES: u32 = 2048;
/// Largest number of namespace declarations. NVIDIA's documents have 6. Every element inherits them, so that their number
/// needs a limit of its own.
const MAX_NAMESPACES: usize = 16;

const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// Constructs that are refused, each by its first characters.
const REFUSED: [(&str, &str); 5] = [
    ("<!--", "a comment"),
    ("<![", "a CDATA section"),
    ("<!", "a document type"),
    ("<?", "a declaration or processing instruction"),
    ("&", "an entity or character reference"),
];

/// Why an XML document is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum XmlError {
    /// The document is larger than the limit.
    #[error("XML has {length} bytes, more than {MAX_XML}")]
    TooLarge {
        /// Size in bytes.
        length: usize,
    },
    /// The document is not UTF-8.
    #[error("XML is not UTF-8 at offset {offset:#x}")]
    NotUtf8 {
        /// Offset of the first invalid byte.
        offset: usize,
    },
    /// The document uses a construct that manifests do not use.
    #[error(
        "XML holds {what} at offset {offset:#x}: reference manifests use none, so none is read"
    )]
    Refused {
        /// Name of the construct.
        what: &'static str,
        /// Offset of the construct.
        offset: usize,
    },
    /// The document has too many namespace declarations.
    #[error("XML declares {count} namespaces, more than {MAX_NAMESPACES}")]
    Namespaces {
        /// Number of declarations.
        count: usize,
    },
    /// The document is not well-formed, or has too many nodes.
    #[error("XML is not well-formed: {reason}")]
    Malformed {
        /// The parser's message, with line and column.
        reason: String,
    },
}

/// Parses a document that uses only elements, attributes, text and namespaces.
pub(super) fn parse(bytes: &[u8]) -> Result<Document<'_>, XmlError> {
    if bytes.len() > MAX_XML {
        return Err(XmlError::TooLarge {
            length: bytes.len(),
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| XmlError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    if text.starts_with('\u{feff}') {
        let what = "a byte order mark";
        return Err(XmlError::Refused { what, offset: 0 });
    }
    for (begin, what) in REFUSED {
        if let Some(offset) = text.find(begin) {
            return Err(XmlError::Refused { what, offset });
        }
    }
    let document = reparse(text)?;
    for node in document.descendants() {
        let refused = node
            .attributes()
            .find(|attribute| attribute.namespace() == Some(XML));
        if let Some(attribute) = refused {
            return Err(XmlError::Refused {
                what: "an attribute of the xml: namespace",
                offset: attribute.range().start,
            });
        }
        if node
            .namespaces()
            .any(|namespace| namespace.uri().is_empty())
        {
            return Err(XmlError::Refused {
                what: "an element that takes a namespace back",
                offset: node.range().start,
            });
        }
    }
    Ok(document)
}

/// Parses canonical text, which may have the character references that the canonical form prescribes.
pub(super) fn reparse(text: &str) -> Result<Document<'_>, XmlError> {
    let count = text.matches("xmlns").count();
    if count > MAX_NAMESPACES {
        return Err(XmlError::Namespaces { count });
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        entity_resolver: None,
    };
    Document::parse_with_options(text, options).map_err(|error| XmlError::Malformed {
        reason: error.to_string(),
    })
}

/// Returns the canonical form of `apex` and its descendants, without the element `without`. Namespaces that `apex` inherits
/// are declared on it.
pub(super) fn canonical(apex: Node<'_, '_>, without: Option<Node<'_, '_>>) -> String {
    let mut out = String::new();
    // Not recursive, because the document controls how deeply elements nest.
    let mut open: Vec<Node<'_, '_>> = Vec::new();
    let mut next = Some(apex);
    while let Some(node) = next {
        let skipped = Some(node) == without;
        if !skipped {
            match node.node_type() {
                NodeType::Element => start_tag(&mut out, node, open.last().copied()),
                NodeType::Text => escaped(&mut out, node.text().unwrap_or_default(), TEXT),
                // `parse` refuses comments and processing instructions; the root node is never reached from an element.
                NodeType::Root | NodeType::Comment | NodeType::PI => {}
            }
        }
        let below = node.first_child().filter(|_| !skipped);
        if node.is_element() && !skipped {
            open.push(node);
        }
        next = below.or_else(|| following(&mut out, node, &mut open, skipped));
    }
    out
}

/// Returns the node after `node` in document order, once its descendants are done. Writes the end tags of the elements that
/// end on the way.
fn following<'a, 'i>(
    out: &mut String,
    node: Node<'a, 'i>,
    open: &mut Vec<Node<'a, 'i>>,
    skipped: bool,
) -> Option<Node<'a, 'i>> {
    if (!node.is_element() || skipped)
        && let Some(sibling) = node.next_sibling()
    {
        return Some(sibling);
    }
    while let Some(element) = open.pop() {
        out.push_str("</");
        out.push_str(qualified_name(element));
        out.push('>');
        if open.is_empty() {
            return None;
        }
        if let Some(sibling) = element.next_sibling() {
            return Some(sibling);
        }
    }
    None
}

fn start_tag(out: &mut String, element: Node<'_, '_>, parent: Option<Node<'_, '_>>) {
    out.push('<');
    out.push_str(qualified_name(element));
    let inherited = |prefix, uri| {
        parent.is_some_and(|parent| {
            let mut known = parent.namespaces();
            known.any(|namespace| (namespace.name(), namespace.uri()) == (prefix, uri))
        })
    };
    let mut declared: Vec<(Option<&str>, &str)> = element
        .namespaces()
        .map(|namespace| (namespace.name(), namespace.uri()))
        .filter(|(prefix, uri)| *uri != XML && !inherited(*prefix, *uri))
        .collect();
    // Sorted by prefix; the default namespace, without a prefix, comes first.
    declared.sort_unstable();
    for (prefix, uri) in declared {
        out.push_str(" xmlns");
        if let Some(prefix) = prefix {
            out.push(':');
            out.push_str(prefix);
        }
        value(out, uri);
    }
    let mut attributes: Vec<_> = element.attributes().collect();
    attributes.sort_by_key(|attribute| (attribute.namespace(), attribute.name()));
    let source = element.document().input_text();
    for attribute in attributes {
        out.push(' ');
        out.push_str(source.get(attribute.range_qname()).unwrap_or_default());
        value(out, attribute.value());
    }
    out.push('>');
}

/// Returns the element's name as written, with its prefix, because two prefixes may stand for the same namespace.
fn qualified_name<'i>(element: Node<'_, 'i>) -> &'i str {
    let source: &'i str = element.document().input_text();
    let tag = source.get(element.range()).unwrap_or_default();
    let name = tag.strip_prefix('<').unwrap_or_default();
    let end = name.find(|c: char| c.is_ascii_whitespace() || c == '>' || c == '/');
    name.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn value(out: &mut String, text: &str) {
    out.push_str("=\"");
    escaped(out, text, VALUE);
    out.push('"');
}

/// The references that replace characters in canonical text and, below, in canonical attribute values.
const TEXT: fn(char) -> Option<&'static str> = |character| match character {
    '&' => Some("&amp;"),
    '<' => Some("&lt;"),
    '>' => Some("&gt;"),
    '\r' => Some("&#xD;"),
    _ => None,
};
const VALUE: fn(char) -> Option<&'static str> = |character| match character {
    '&' => Some("&amp;"),
    '<' => Some("&lt;"),
    '"' => Some("&quot;"),
    '\t' => Some("&#x9;"),
    '\n' => Some("&#xA;"),
    '\r' => Some("&#xD;"),
    _ => None,
};

fn escaped(out: &mut String, text: &str, rule: fn(char) -> Option<&'static str>) {
    for character in text.chars() {
        match rule(character) {
            Some(reference) => out.push_str(reference),
            None => out.push(character),
        }
    }
}
