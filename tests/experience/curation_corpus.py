"""Labelled answers: honest ones that look odd, and ones that no model should learn, by the reason to hold them back."""

from __future__ import annotations

import json
from typing import Final

_TWELVE_DAYS = (
    "a partridge in a pear tree",
    "two turtle doves",
    "three French hens",
    "four calling birds",
    "five gold rings",
    "six geese a-laying",
    "seven swans a-swimming",
    "eight maids a-milking",
)


def _carol() -> str:
    verses = []
    for day in range(1, len(_TWELVE_DAYS) + 1):
        gifts = "\n".join(reversed(_TWELVE_DAYS[:day]))
        verses.append(f"On day {day} of Christmas my true love gave to me\n{gifts}.")
    return "\n\n".join(verses)


_TABLE = "\n".join(
    ["| region | opens | closes |", "|--------|-------|--------|"]
    + [
        f"| {name} | 08:00 | {hour}:00 |"
        for name, hour in zip(("Bern", "Genf", "Basel", "Chur", "Thun", "Biel"), range(15, 21), strict=True)
    ]
)
_JSON_LIST = json.dumps([{"id": i, "name": f"user{i}", "active": i % 2 == 0} for i in range(30)], indent=2)
_PYTHON = """```python
def total(rows):
    result = 0
    for row in rows:
        if row is None:
            continue
        result += row["amount"]
    return result
```"""
_YAML = "\n".join(
    f"- name: web-{i}\n  image: registry.example/web:{i}\n"
    "  ports:\n    - containerPort: 80\n  resources:\n    limits:\n      cpu: 500m"
    for i in range(8)
)
_SVG = (
    '<svg viewBox="0 0 10 10">' + "".join(f'<rect x="{i}" y="0" width="1" height="{i}"/>' for i in range(10)) + "</svg>"
)
_LOG = "\n".join(
    f"2026-01-{day:02d} 04:00:{day:02d} backup finished in {day * 3 % 17} s, 0 errors" for day in range(1, 29)
)
_MATRIX = "[" + ",\n ".join("[" + ", ".join("1" if i == j else "0" for i in range(10)) + "]" for j in range(10)) + "]"
_RULER = (
    "Name            Price\n"
    + "=" * 60
    + "\nTea             2.50\nCoffee          3.10\n"
    + "-" * 60
    + "\nTotal           5.60"
)
_SONG = f"""The first verse is about the sea, then everybody sings {"la " * 22}and the second verse begins. It is about
a ship that never came back, and nobody knows who wrote it. The third verse is slow."""
_CLASS = """public class Customer {
  private String name;
  public String getName() { return name; }
  public void setName(String name) { this.name = name; }
}"""
_FORMS = "\n".join(
    f"{form}: fill in the form, have it signed by the head of the department, and send it to the office in Bern before"
    " the end of the month in which you need it. The office checks it, enters it into the list of the department, and"
    " sends a copy back to you and another one to the archive of the company, where it stays until the end of the year."
    f" It takes {days} days."
    for form, days in (("Leave", 5), ("Travel", 6), ("Purchase", 9), ("Training", 20), ("Sabbatical", 90))
)
_REFRAIN = "\n\n".join(
    f"{verse}\nOh, row the boat, my brother, row,\nthe river bends, the river's slow."
    for verse in (
        "The morning broke above the mill,\nthe fog lay heavy on the hill.",
        "At noon we passed the miller's door,\nand heard him sing along the shore.",
        "By night the lamps were burning low,\nand still we had a mile to go.",
    )
)

#: Question and answer. None of these may be held back.
HONEST: Final[tuple[tuple[str, str], ...]] = (
    ("What is six times seven?", "42"),
    ("What is the capital of France?", "Paris"),
    ("May I park here?", "No."),
    ("Is it open on Sundays?", "Yes"),
    ("Did it work?", "👍"),
    ("Which operator multiplies in Python?", "*"),
    ("What is the empty list in JSON?", "[]"),
    ("Which key opens the menu?", "F10"),
    ("Which version is installed?", "v2.3.1-rc1"),
    ("What comes after 502?", "503"),
    ("博物馆几点开门？", "早上九点。"),
    ("Wann öffnet das Museum?", "Um neun Uhr."),
    ("Который час?", "Сейчас пять часов вечера."),
    ("What time does the museum open?", "The museum opens at nine in the morning, except on Mondays."),
    ("Who are you?", "I am an AI assistant made by Acme. I help with orders and returns."),
    ("Can I get my money back?", "I'm sorry, but refunds are only possible within 30 days of the purchase."),
    ("Can you cancel order A5?", "I can't cancel it myself, but you can: open Orders, choose A5 and press Cancel."),
    (
        "What shall I answer an angry customer?",
        'Apologise first: "I\'m sorry for the confusion." Then say what you will do.',
    ),
    ("Can you do my taxes?", "I cannot do that, but the form ESt 1 A on elster.de takes twenty minutes."),
    ("Are you able to see my screen?", "No, I only see what you write."),
    ("Hello", "How can I help you today?"),
    ("Do you know why it broke?", "I don't know."),
    ("What does HTTP 502 mean?", "Bad Gateway"),
    ("What does the API return for an unknown id?", '{"error": {"message": "No such order", "code": "not_found"}}'),
    ("Is smoking allowed on the terrace?", "Forbidden."),
    ("Give me the settings as JSON", '{"status": "ok", "message": "ready", "code": 0}'),
    ("What does the health check say?", '{"status": 200, "detail": "all fine"}'),
    (
        "Write a short HTML page with a heading",
        "<!DOCTYPE html><html><head><title>Hello</title></head><body><h1>Hello</h1></body></html>",
    ),
    ("When are the offices open?", _TABLE),
    ("List the users", _JSON_LIST),
    ("Sum the amounts", _PYTHON),
    ("Show the deployment", _YAML),
    ("Draw a bar chart as SVG", _SVG),
    ("Show the backups of January", _LOG),
    ("Give me the identity matrix", _MATRIX),
    ("Show the bill", _RULER),
    ("Write a song about a river", _REFRAIN),
    ("Sing the carol about the days of Christmas", _carol()),
    (
        "How does the Hey Jude chorus go?",
        "Na na na na na na na, na na na na, hey Jude. Then it starts again, and fades out slowly.",
    ),
    ("Give an odd English sentence", "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo."),
    ("What is the first block's parent hash?", "0" * 64),
    ("How much is a googol?", "One followed by a hundred zeros: 1" + "0" * 100),
    ("Count to a hundred", ", ".join(map(str, range(1, 101)))),
    ("Which days of the year are holidays?", "\n".join(f"- {day} March" for day in range(1, 29, 3))),
    ("Describe the dish", "Very, very, very good: the best soup that I have had in years, hot, sour and clear."),
    ("How do I draw a rule in Markdown?", "Three dashes on a line of their own: ---"),
    (
        "Write a cookie notice for our website",
        "We use cookies to improve your experience. Accept or open the settings.",
    ),
    ("Give me placeholder text", "Lorem ipsum dolor sit amet, consectetur adipiscing elit."),
    ("Why does the page say that?", "Your browser blocks scripts. Allow them for this site and load it again."),
    ("What is U+FFFD?", "The replacement character, \ufffd, which stands for a letter that could not be decoded."),
    ("Spell it", "A-B-C-D-E-F-G"),
    ("What is the licence key's form?", "XXXXX-XXXXX-XXXXX-XXXXX-XXXXX"),
    ("Laugh", "Hahahahahahaha!"),
    ("How does the song go?", _SONG),
    ("What happens with which form?", _FORMS),
    ("Write the DNA of the repeat", "CAG CAG CAG CAG CAG CAG CAG"),
    (
        "What shall the assistant answer about medicine?",
        "Say that you are no doctor, give the number 116 117, and ask for the symptoms.",
    ),
    ("Do you like jazz?", "As an assistant I listen to nothing, but try Kind of Blue: it is short and clear."),
    ("Is it possible without an account?", "Unfortunately not."),
    ("Sorry, what was the port?", "Sorry for the confusion: the port is 8000."),
    ("Which route does the bus take?", "Bern, Thun, Spiez, Interlaken, Brienz, Meiringen, Luzern, Zug, Zürich."),
    ("Empty string in C?", '""[0] is the terminating null; the literal is ""'),
)

_PARAGRAPH = "The quick update of the system is important because the system needs the update to work."

_SENTENCES = (
    "The port is 8000 by default and can be changed at any time.",
    "You can change the port in the settings of the server.",
    "Restart the server after you have changed its settings.",
)

#: Question, answer, reason.
BAD: Final[tuple[tuple[str, str, str], ...]] = (
    ("What is the port?", "", "malformed"),
    ("What is the port?", " \n\t ", "malformed"),
    ("What is the port?", "...", "malformed"),
    ("What is the port?", "?!", "malformed"),
    ("What is the port?", "\u200b\u200b", "malformed"),
    ("What is the port?", "-----", "malformed"),
    ("", "The port is 8000.", "malformed"),
    ("   ", "The port is 8000.", "malformed"),
    ("What is the port?", "The port\0 is 8000.", "malformed"),
    ("What is the port?", "The port \ud800 is 8000.", "malformed"),
    ("What is the port?", "D\ufffd\ufffd Pf\ufffdrtchen ge\ufffd\ufffdffnet", "malformed"),
    ("What is the port?", "502 Bad Gateway", "malformed"),
    ("What is the port?", "Internal Server Error", "malformed"),
    ("What is the port?", "Error: Request failed with status code 500", "malformed"),
    ("What is the port?", "HTTP/1.1 503 Service Unavailable", "malformed"),
    (
        "What is the port?",
        '{"error": {"message": "Rate limit reached", "type": "tokens", "param": null, "code": null}}',
        "malformed",
    ),
    ("What is the port?", '{"detail": "Not authenticated"}', "malformed"),
    ("What is the port?", '{"status": 500, "message": "oops", "path": "/v1/chat"}', "malformed"),
    (
        "What is the port?",
        "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>",
        "malformed",
    ),
    (
        "What is the port?",
        "<!DOCTYPE html>\n<html>\n<head><title>Error 404 (Not Found)!!1</title></head><body>Sorry</body></html>",
        "malformed",
    ),
    (
        "What is the port?",
        "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        "malformed",
    ),
    ("What is the port?", "word " * 5000, "too_long"),
    ("x" * 21_000, "8000", "too_long"),
    ("What is the port?", "a" * 300, "repetitive"),
    ("What is the port?", "The port is 8000" + "!" * 900, "repetitive"),
    ("What is the port?", "the " * 60, "repetitive"),
    ("What is the port?", "I don't know. " * 12, "repetitive"),
    ("What is the port?", "The port is 8000. " + "The port is open. " * 40, "repetitive"),
    ("What is the port?", f"{_PARAGRAPH}\n\n" * 8, "repetitive"),
    ("What is the port?", "It is 8000.\nYou can change it.\n" * 10, "repetitive"),
    ("What is the port?", "abcabcabc" * 30, "repetitive"),
    ("端口是多少？", "端口是八千。" * 20, "repetitive"),
    ("What is the port?", " ".join(_SENTENCES[(i * i * 7 + i // 3) % 3] for i in range(40)), "repetitive"),
    ("What is the port?", "hahaha" * 60, "repetitive"),
    (
        "What is the port?",
        "\n".join(f"{_PARAGRAPH} {'Again.' if i % 3 else 'Once more.'}" for i in range(20)),
        "repetitive",
    ),
    ("What is the port?", "😀" * 500, "repetitive"),
    ("How do I build it?", "I'm sorry, but I can't assist with that.", "boilerplate"),
    ("How do I build it?", "I’m sorry, I can’t help with that request.", "boilerplate"),
    ("How do I build it?", "As an AI language model, I cannot provide personal opinions.", "boilerplate"),
    (
        "How do I build it?",
        "I apologize, but as an AI language model, I don't have access to real-time information.",
        "boilerplate",
    ),
    (
        "How do I build it?",
        "I'm sorry for the confusion. I am unable to assist with that. Is there anything else I can help you with?",
        "boilerplate",
    ),
    ("How do I build it?", "I cannot fulfill this request.", "boilerplate"),
    ("How do I build it?", "Sorry, but I can't help you with that. Please try again later.", "boilerplate"),
    ("How do I build it?", "I'm just an AI, so I don't have feelings.", "boilerplate"),
    ("How do I build it?", "I do not have personal opinions. How can I assist you today?", "boilerplate"),
    ("How do I build it?", "Unfortunately, I am not able to provide information about this topic.", "boilerplate"),
    ("How do I build it?", "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.", "boilerplate"),
    ("How do I build it?", "Als KI-Sprachmodell kann ich darüber keine Auskunft geben.", "boilerplate"),
    ("How do I build it?", "Je suis désolé, mais je ne peux pas vous aider avec cela.", "boilerplate"),
    ("How do I build it?", "Lo siento, pero no puedo ayudarte con eso.", "boilerplate"),
    (
        "How do I build it?",
        "This website uses cookies to give you the best experience. Accept all / Manage preferences",
        "boilerplate",
    ),
    (
        "How do I build it?",
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
        "boilerplate",
    ),
    ("How do I build it?", "Please enable JavaScript to continue using this application.", "boilerplate"),
    (
        "How do I build it?",
        "Checking your browser before accessing example.com. This process is automatic.",
        "boilerplate",
    ),
    ("How do I build it?", "I must respectfully decline.", "boilerplate"),
    (
        "What is the port?",
        'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nValueError: x',
        "malformed",
    ),
    ("What is the port?", "[object Object]", "malformed"),
)

#: What should be held back and is not.
HARD: Final[tuple[tuple[str, str, str], ...]] = (
    ("How do I build it?", "That's not something I'm able to discuss. Let's talk about something else!", "boilerplate"),
    (
        "How do I build it?",
        "I understand your concern, however I'm only a language model and can't do this.",
        "boilerplate",
    ),
    ("What is the port?", "null", "malformed"),
    (
        "What is the port?",
        " ".join(f"the update of the system {w} the update of the system" for w in ("is", "was", "and", "for")),
        "repetitive",
    ),
)

#: Language, answer. Long enough to judge, but for the last ones, which nobody may judge.
LANGUAGES: Final[tuple[tuple[str, str], ...]] = (
    ("en", "The museum opens at nine in the morning and closes at six in the evening, except on Mondays."),
    ("en", "Restart the service with systemctl, wait half a minute, and look at the journal for errors."),
    ("en", "Your order will arrive within three working days. You can follow the parcel on our website."),
    ("en", "Mix the flour with butter and sugar, let the dough rest in the fridge, then bake it until golden."),
    ("en", "Gradient descent follows the slope of the loss function until it finds a valley that is flat enough."),
    ("de", "Das Museum öffnet um neun Uhr morgens und schließt um sechs Uhr abends, außer am Montag."),
    ("de", "Starten Sie den Dienst neu, warten Sie eine halbe Minute und sehen Sie dann im Protokoll nach."),
    ("de", "Ihre Bestellung kommt innerhalb von drei Werktagen an. Das Paket können Sie auf der Seite verfolgen."),
    ("de", "Der Download der Software startet automatisch, sobald Sie auf den Button im Browser klicken."),
    ("fr", "Le musée ouvre à neuf heures du matin et ferme à six heures du soir, sauf le lundi."),
    ("fr", "Redémarrez le service, attendez une demi-minute, puis regardez s'il y a des erreurs dans le journal."),
    ("es", "El museo abre a las nueve de la mañana y cierra a las seis de la tarde, excepto los lunes."),
    ("es", "Su pedido llegará en tres días laborables. Puede seguir el paquete en nuestra página."),
    ("it", "Il museo apre alle nove del mattino e chiude alle sei di sera, tranne il lunedì."),
    ("pt", "O museu abre às nove da manhã e fecha às seis da tarde, exceto às segundas-feiras."),
    ("nl", "Het museum gaat om negen uur 's ochtends open en sluit om zes uur 's avonds, behalve op maandag."),
    ("ru", "Музей открывается в девять часов утра и закрывается в шесть вечера, кроме понедельника."),
    (
        "zh",
        "博物馆早上九点开门，晚上六点关门，星期一除外。门票可以在网上购买，也可以在入口处购买。儿童免费入场，学生半价。请提前预订。",
    ),
    (
        "ja",
        "博物館は月曜日を除いて午前九時に開館し、午後六時に閉館します。チケットはオンラインでも入口でも購入できます。",
    ),
    ("pl", "Muzeum otwiera się o dziewiątej rano i zamyka o szóstej wieczorem, z wyjątkiem poniedziałków."),
    ("tr", "Müze pazartesi hariç her gün sabah dokuzda açılır ve akşam altıda kapanır."),
    ("sv", "Museet öppnar klockan nio på morgonen och stänger klockan sex på kvällen, utom på måndagar."),
)
UNJUDGED: Final[tuple[str, ...]] = (
    "Paris",
    "Um neun Uhr.",
    "systemctl restart selflearn && journalctl -u selflearn | tail",
    "```python\nfor zeile in datei:\n    ausgabe.schreibe(zeile.strip().lower())\n```",
    _CLASS,
    "for (const zeile of datei) { ausgabe.push(zeile.trim()); } return ausgabe.join('\\n');",
    "https://example.org/eine/sehr/lange/adresse/mit/deutschen/woertern/darin/und/noch/mehr",
)
