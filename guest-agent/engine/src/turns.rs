//! Tools for models whose chat template does not support them. Tools are described in the instructions, and calls and results
//! become text of the turns, in the form that most models have seen (that of Hermes and Qwen).

use cocoon_protocol::engine::{Call, Choice, Prompt, Speaker, Tool, Turn, json_string};
use cocoon_protocol::wiping::append;
use zeroize::Zeroizing;

/// Estimates of the tokens that a template adds around a conversation and around each turn.
const AROUND: usize = 32;
const AROUND_TURN: usize = 8;

/// Estimates the tokens around a prompt of `texts` texts. Without a template there is at most a first token.
pub fn around(prompt: &Prompt, texts: usize) -> usize {
    match prompt {
        Prompt::Text(_) => 1,
        Prompt::Conversation(_) => AROUND + AROUND_TURN * texts,
    }
}

/// A turn that consists of text only.
pub struct Plain {
    /// Author of the turn; never a tool.
    pub speaker: Speaker,
    /// Text of the turn.
    pub text: Zeroizing<String>,
}

/// Converts `turns` into turns of text, without tools in their structure.
pub fn plain(turns: &[Turn], tools: &[Tool], choice: &Choice) -> Vec<Plain> {
    let mut plain: Vec<Plain> = Vec::with_capacity(turns.len() + 1);
    for turn in turns {
        let (speaker, text) = match turn.speaker {
            Speaker::Tool => (Speaker::User, answer(&turn.content)),
            speaker => (speaker, said(turn)),
        };
        match plain.last_mut() {
            // Results of several tools form one turn, because most templates require alternating authors.
            Some(last) if turn.speaker == Speaker::Tool && last.speaker == speaker => {
                last.text = joined(&last.text, &text);
            }
            _ => plain.push(Plain { speaker, text }),
        }
    }
    if !tools.is_empty() {
        let instructions = instructions(tools, choice);
        match plain.first_mut() {
            Some(first) if first.speaker == Speaker::System => {
                first.text = joined(&first.text, &instructions);
            }
            _ => plain.insert(
                0,
                Plain {
                    speaker: Speaker::System,
                    text: instructions,
                },
            ),
        }
    }
    plain
}

/// Returns the text of an assistant's turn with its calls.
pub fn said(turn: &Turn) -> Zeroizing<String> {
    let mut text = Zeroizing::new(turn.content.clone());
    for Call {
        name, arguments, ..
    } in &turn.calls
    {
        if !text.is_empty() {
            append(&mut text, "\n");
        }
        // A name has no character that JSON would escape.
        for part in [
            "<tool_call>\n{\"name\": \"",
            name,
            "\", \"arguments\": ",
            arguments,
            "}\n</tool_call>",
        ] {
            append(&mut text, part);
        }
    }
    text
}

fn answer(content: &str) -> Zeroizing<String> {
    together(&["<tool_response>\n", content, "\n</tool_response>"])
}

fn joined(first: &str, second: &str) -> Zeroizing<String> {
    together(&[first, "\n\n", second])
}

/// Concatenates the parts with one allocation: growing would leave unwiped copies behind.
fn together(parts: &[&str]) -> Zeroizing<String> {
    Zeroizing::new(parts.concat())
}

fn instructions(tools: &[Tool], choice: &Choice) -> Zeroizing<String> {
    let mut text = Zeroizing::new(
        "You may call these functions, described as JSON inside <tools></tools>:\n<tools>\n"
            .to_owned(),
    );
    for tool in tools {
        let description = json_string(tool.description.as_deref().unwrap_or_default());
        for part in [
            "{\"name\": \"",
            &tool.name,
            "\", \"description\": ",
            &description,
            ", \"parameters\": ",
            &tool.parameters,
            "}\n",
        ] {
            append(&mut text, part);
        }
    }
    append(&mut text, "</tools>\n");
    let how = match choice {
        Choice::Auto => {
            "To call one, answer with a JSON object inside <tool_call></tool_call> and nothing else:\n<tool_call>\n{\"name\": <function>, \"arguments\": <JSON object>}\n</tool_call>"
        }
        // The grammar of such an answer has no marks.
        Choice::Required | Choice::Named(_) => {
            "Call one now: answer with nothing but a JSON object {\"name\": <function>, \"arguments\": <JSON object>}."
        }
    };
    append(&mut text, how);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(speaker: Speaker, content: &str) -> Turn {
        Turn {
            speaker,
            content: content.into(),
            calls: vec![],
            call_id: None,
        }
    }

    #[test]
    fn only_a_conversation_has_a_template_around_it() {
        assert_eq!(around(&Prompt::Text("a b".into()), 1), 1);
        assert_eq!(around(&Prompt::Conversation(vec![]), 3), 32 + 3 * 8);
    }

    #[test]
    fn a_conversation_with_tools_becomes_text() {
        let mut call = turn(Speaker::Assistant, "Wait.");
        call.calls.push(Call {
            id: "call_1".into(),
            name: "f".into(),
            arguments: "{\"a\":1}".into(),
        });
        let turns = [
            turn(Speaker::System, "Be kind."),
            turn(Speaker::User, "Hi"),
            call,
            turn(Speaker::Tool, "7"),
            turn(Speaker::Tool, "8"),
        ];
        let tool = Tool {
            name: "f".into(),
            description: Some("adds \"one\"\u{1} e\u{301}".into()),
            parameters: "{}".into(),
            strict: false,
        };
        let plain = plain(&turns, &[tool], &Choice::Auto);
        let speakers: Vec<Speaker> = plain.iter().map(|plain| plain.speaker).collect();
        assert_eq!(
            speakers,
            [
                Speaker::System,
                Speaker::User,
                Speaker::Assistant,
                Speaker::User
            ]
        );
        assert!(plain[0].text.starts_with("Be kind.\n\nYou may call"));
        assert!(
            plain[0]
                .text
                .contains("{\"name\": \"f\", \"description\": \"adds \\\"one\\\"\\u0001 e\u{301}\", \"parameters\": {}}")
        );
        assert_eq!(
            *plain[2].text,
            "Wait.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call>"
        );
        assert_eq!(
            *plain[3].text,
            "<tool_response>\n7\n</tool_response>\n\n<tool_response>\n8\n</tool_response>"
        );
    }
}
