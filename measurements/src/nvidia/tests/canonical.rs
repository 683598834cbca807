//! Canonical XML: examples of its specification for the subset that manifests use, and further properties.

use crate::nvidia::xml::{canonical, parse, reparse};

fn whole(text: &str) -> String {
    canonical(parse(text.as_bytes()).unwrap().root_element(), None)
}

/// The example of W3C's "Canonical XML", section 3.3 ("Start and End Tags"), without its document type.
#[test]
fn start_and_end_tags() {
    let source = r#"<doc>
   <e1   />
   <e2   ></e2>
   <e3   name = "elem3"   id="elem3"   />
   <e4   name="elem4"   id="elem4"   ></e4>
   <e5 a:attr="out" b:attr="sorted" attr2="all" attr="I'm"
      xmlns:b="http://www.ietf.org"
      xmlns:a="http://www.w3.org"
      xmlns="http://example.org"/>
   <e6 xmlns:a="http://www.w3.org">
      <e7 xmlns="http://www.ietf.org">
         <e8 xmlns:a="http://www.w3.org">
            <e9 xmlns:a="http://www.ietf.org"/>
         </e8>
      </e7>
   </e6>
</doc>"#;
    let expected = r#"<doc>
   <e1></e1>
   <e2></e2>
   <e3 id="elem3" name="elem3"></e3>
   <e4 id="elem4" name="elem4"></e4>
   <e5 xmlns="http://example.org" xmlns:a="http://www.w3.org" xmlns:b="http://www.ietf.org" attr="I'm" attr2="all" b:attr="sorted" a:attr="out"></e5>
   <e6 xmlns:a="http://www.w3.org">
      <e7 xmlns="http://www.ietf.org">
         <e8>
            <e9 xmlns:a="http://www.ietf.org"></e9>
         </e8>
      </e7>
   </e6>
</doc>"#;
    assert_eq!(whole(source), expected);
}

#[test]
fn characters_that_canonical_form_refers_to() {
    assert_eq!(
        whole("<a b='\"' c='>'>x > \"y\"\r\n\tz</a>"),
        "<a b=\"&quot;\" c=\">\">x &gt; \"y\"\n\tz</a>"
    );
    assert_eq!(
        whole("<a b='1\t2\n3'/>"),
        "<a b=\"1 2 3\"></a>",
        "as XML normalises attributes"
    );
}

#[test]
fn a_part_declares_what_it_inherits() {
    let text = r#"<a xmlns="urn:d" xmlns:x="urn:x"><b xmlns:x="urn:y"><x:c>1</x:c></b><d/></a>"#;
    let document = parse(text.as_bytes()).unwrap();
    let root = document.root_element();
    let inner = root.first_child().unwrap().first_child().unwrap();
    assert_eq!(
        canonical(inner, None),
        r#"<x:c xmlns="urn:d" xmlns:x="urn:y">1</x:c>"#
    );
    let without = canonical(root, root.first_child());
    assert_eq!(without, r#"<a xmlns="urn:d" xmlns:x="urn:x"><d></d></a>"#);
    let last = canonical(root, root.last_child());
    assert_eq!(
        last,
        r#"<a xmlns="urn:d" xmlns:x="urn:x"><b xmlns:x="urn:y"><x:c>1</x:c></b></a>"#
    );
}

/// Two prefixes for one namespace stay distinct, because the text as written is what was signed.
#[test]
fn prefixes_are_kept() {
    let text = r#"<n:a xmlns="urn:d" xmlns:n="urn:d" xmlns:m="urn:d"><b></b><m:c n:e="1" m:f="2"></m:c></n:a>"#;
    let expected = r#"<n:a xmlns="urn:d" xmlns:m="urn:d" xmlns:n="urn:d"><b></b><m:c n:e="1" m:f="2"></m:c></n:a>"#;
    assert_eq!(whole(text), expected);
}

/// Canonicalisation does not recurse, so that deep nesting cannot overflow the stack.
#[test]
fn depth_is_bounded_by_size_alone() {
    let text = ["<a>".repeat(2000), "</a>".repeat(2000)].concat();
    let form = whole(&text);
    assert_eq!(form, text);
    assert_eq!(
        canonical(reparse(&form).unwrap().root_element(), None),
        form
    );
}
