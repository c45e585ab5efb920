"""Labelled pairs of questions: the same one said slightly differently, and different ones that look alike."""

from __future__ import annotations

from typing import Final

#: The same question: case, punctuation, politeness, typos, small rephrasings.
SAME: Final[tuple[tuple[str, str], ...]] = (
    ("What is the port of the daemon?", "what is the port of the daemon"),
    ("How do I reset my password?", "How do I reset my password?!"),
    ("How do I reset my password?", "How do i reset my pasword?"),
    ("How do I reset my password?", "Please, how do I reset my password?"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("When does the museum open on Sundays?", "When does the museum open on sunday?"),
    ("When does the museum open on Sundays?", "when does the musuem open on Sundays"),
    ("When does the museum open on Sundays?", "Hi, when does the museum open on Sundays?"),
    (
        "Which documents do I need to apply for a parking permit?",
        "Which documents do I need to apply for a parking permit",
    ),
    (
        "Which documents do I need to apply for a parking permit?",
        "What documents do I need to apply for a parking permit?",
    ),
    (
        "Which documents do I need to apply for a parking permit?",
        "Which documents do I need to aply for a parking permit?",
    ),
    (
        "Which documents do I need to apply for a parking permit?",
        "Which documents do I need when I apply for a parking permit?",
    ),
    (
        "Which documents do I need to apply for a parking permit?",
        "Hello! Which documents do I need to apply for a parking permit? Thank you!",
    ),
    (
        "How many days of vacation do part-time employees get per year?",
        "How many vacation days do part-time employees get per year?",
    ),
    (
        "How many days of vacation do part-time employees get per year?",
        "how many days of vacation do part time employees get per year?",
    ),
    (
        "How many days of vacation do part-time employees get per year?",
        "How many days of vacation do part-time employes get per year?",
    ),
    (
        "How many days of vacation do part-time employees get per year?",
        "How many days of vacation do part-time employees get in a year?",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "Where is the configuration file of the backup service stored on linux",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "Where is the config file of the backup service stored on Linux?",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "where's the configuration file of the backup service stored on Linux?",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "Where is the configuration file for the backup service stored on Linux?",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "Could you tell me where the configuration file of the backup service is stored on Linux?",
    ),
    (
        "My invoice shows the wrong address. How can I have it corrected before the end of the month?",
        "my invoice shows the wrong adress, how can I have it corrected before the end of the month",
    ),
    (
        "My invoice shows the wrong address. How can I have it corrected before the end of the month?",
        "My invoice shows the wrong address. How do I have it corrected before the end of the month?",
    ),
    (
        "My invoice shows the wrong address. How can I have it corrected before the end of the month?",
        "My invoice shows the wrong address. How can I get it corrected before the end of the month? Thanks a lot!",
    ),
    (
        "I ordered a bicycle two weeks ago and it still hasn't arrived. Where can I see what happened to the parcel?",
        "I ordered a bicycle two weeks ago and it still has not arrived. Where can I see what happened to the parcel?",
    ),
    (
        "I ordered a bicycle two weeks ago and it still hasn't arrived. Where can I see what happened to the parcel?",
        "i orderd a bicycle two weeks ago and it still hasnt arrived. where can i see what hapened to the parcel?",
    ),
    (
        "I ordered a bicycle two weeks ago and it still hasn't arrived. Where can I see what happened to the parcel?",
        "I ordered a bicycle two weeks ago, and it still hasn't come. Where can I see what happened to the parcel?",
    ),
    (
        "Write a function in Python that removes duplicates from a list and keeps the order",
        "Write a Python function that removes duplicates from a list and keeps the order",
    ),
    (
        "Write a function in Python that removes duplicates from a list and keeps the order",
        "write a function in python that removes duplicates from a list & keeps the order.",
    ),
    (
        "Write a function in Python that removes duplicates from a list and keeps the order",
        "Write a function in Python that removes the duplicates from a list and keeps their order",
    ),
    ("Summarise the meeting of the board in three sentences", "summarize the meeting of the board in three sentences"),
    (
        "Summarise the meeting of the board in three sentences",
        "Please summarise the meeting of the board in three sentences.",
    ),
    ("Is the canteen open during the summer holidays?", "is the canteen open in the summer holidays?"),
    ("Is the canteen open during the summer holidays?", "Is the cantine open during the summer holidays?"),
    ("Is the canteen open during the summer holidays?", "Is the canteen open during summer holidays?"),
    ("What must I do if I lose my access card?", "What must I do if I lost my access card?"),
    ("What must I do if I lose my access card?", "what do I have to do if I lose my access card?"),
    ("What must I do if I lose my access card?", "What must I do if I loose my access card?"),
    ("Wie melde ich mich für den Kurs an?", "wie melde ich mich für den kurs an"),
    ("Wie melde ich mich für den Kurs an?", "Wie melde ich mich zu dem Kurs an?"),
    (
        "Wie kann ich meine Rechnung per E-Mail erhalten, statt sie mit der Post zu bekommen?",
        "Wie kann ich meine Rechnung per Email erhalten statt sie mit der Post zu bekommen?",
    ),
    (
        "Wie kann ich meine Rechnung per E-Mail erhalten, statt sie mit der Post zu bekommen?",
        "Wie kann ich die Rechnung per E-Mail erhalten, statt sie mit der Post zu bekommen?",
    ),
    (
        "Who approves travel expenses above 500 euros in the sales team?",
        "who approves travel expenses above 500 euros in the sales team",
    ),
    (
        "Who approves travel expenses above 500 euros in the sales team?",
        "Who aproves travel expenses above 500 euros in the sales team?",
    ),
    (
        "Who approves travel expenses above 500 euros in the sales team?",
        "Who approves the travel expenses above 500 euros in the sales team?",
    ),
    ("port of the daemon?", "daemon port?"),
    ("opening hours?", "opening hours"),
    ("opening hours?", "opening hour?"),
    (
        "Explain the difference between a process and a thread to a beginner, with one example from daily life.",
        "Explain to a beginner the difference between a process and a thread, with one example from daily life.",
    ),
    (
        "Explain the difference between a process and a thread to a beginner, with one example from daily life.",
        "explain the diference between a process and a thread to a beginner with an example from daily life",
    ),
    (
        "Explain the difference between a process and a thread to a beginner, with one example from daily life.",
        "Can you explain the difference between a process and a thread to a beginner with one example from daily life?",
    ),
)

#: Different questions: another entity, number, direction or property in the same words around it.
DIFFERENT: Final[tuple[tuple[str, str], ...]] = (
    ("What is the capital of France?", "What is the capital of Spain?"),
    ("What is the capital of France?", "What is the currency of France?"),
    ("What is the status of order 17?", "What is the status of order 18?"),
    (
        "What is the status of my order with the number A-1047 from last week?",
        "What is the status of my order with the number A-1048 from last week?",
    ),
    (
        "How many people work in building B12 on the second floor at the moment?",
        "How many people work in building B13 on the second floor at the moment?",
    ),
    ("Convert 5 miles to kilometres", "Convert 50 miles to kilometres"),
    ("When does the museum open on Sundays?", "When does the museum close on Sundays?"),
    ("When does the museum open on Sundays?", "When does the museum open on Mondays?"),
    ("When does the museum open on Sundays?", "When does the library open on Sundays?"),
    (
        "Which documents do I need to apply for a parking permit?",
        "Which documents do I need to apply for a building permit?",
    ),
    (
        "Which documents do I need to apply for a parking permit?",
        "Which documents do I need to renew a parking permit?",
    ),
    ("Which documents do I need to apply for a parking permit?", "Which fees do I pay to apply for a parking permit?"),
    (
        "How many days of vacation do part-time employees get per year?",
        "How many days of vacation do full-time employees get per year?",
    ),
    (
        "How many days of vacation do part-time employees get per year?",
        "How many days of sick leave do part-time employees get per year?",
    ),
    (
        "How do I switch on two-factor authentication for my account?",
        "How do I switch off two-factor authentication for my account?",
    ),
    (
        "How do I enable the backup service on the server in Frankfurt?",
        "How do I disable the backup service on the server in Frankfurt?",
    ),
    (
        "How do I enable the backup service on the server in Frankfurt?",
        "How do I enable the backup service on the server in Hamburg?",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "Where is the configuration file of the backup service stored on Windows?",
    ),
    (
        "Where is the configuration file of the backup service stored on Linux?",
        "Where is the log file of the backup service stored on Linux?",
    ),
    (
        "Translate the following sentence into French: The house is big.",
        "Translate the following sentence into German: The house is big.",
    ),
    (
        "Translate the following sentence into French: The house is big.",
        "Translate the following sentence into French: The tree is green.",
    ),
    (
        "Who is responsible for the release of the mobile application in the Berlin office?",
        "Who is responsible for the release of the mobile application in the Munich office?",
    ),
    (
        "Who is responsible for the release of the mobile application in the Berlin office?",
        "Who is responsible for the design of the mobile application in the Berlin office?",
    ),
    (
        "Write a function in Python that removes duplicates from a list and keeps the order",
        "Write a function in Python that removes duplicates from a list and sorts the result",
    ),
    (
        "Write a function in Python that removes duplicates from a list and keeps the order",
        "Write a function in Rust that removes duplicates from a list and keeps the order",
    ),
    ("Is the canteen open during the summer holidays?", "Is the canteen open during the winter holidays?"),
    ("What must I do if I lose my access card?", "What must I do if I lose my credit card?"),
    (
        "Which team won the final of the world cup in the year 1990?",
        "Which team won the final of the world cup in the year 1994?",
    ),
    (
        "Please classify the sentiment of this review as positive or negative: the soup was cold and the waiter rude",
        "Please classify the sentiment of this review as positive or negative: the soup was hot and the waiter kind",
    ),
    (
        "Please classify the sentiment of this review as positive or negative: the soup was cold and the waiter rude",
        "Please classify the sentiment of this review as positive or negative: what a lovely evening we had there",
    ),
    (
        "Extract the name of the customer from the message: Hello, my name is Anna Keller and my router is broken.",
        "Extract the name of the customer from the message: Hello, my name is Paul Weber and my router is broken.",
    ),
    ("Wie melde ich mich für den Kurs an?", "Wie melde ich mich von dem Kurs ab?"),
    (
        "Wie kann ich meine Rechnung per E-Mail erhalten, statt sie mit der Post zu bekommen?",
        "Wie kann ich meinen Vertrag per E-Mail erhalten, statt ihn mit der Post zu bekommen?",
    ),
    (
        "Who approves travel expenses above 500 euros in the sales team?",
        "Who approves travel expenses above 900 euros in the sales team?",
    ),
    (
        "Who approves travel expenses above 500 euros in the sales team?",
        "Who approves travel expenses above 500 euros in the legal team?",
    ),
    ("What is the melting point of iron?", "What is the melting point of gold?"),
    ("What is the melting point of iron?", "What is the boiling point of iron?"),
    ("Can I bring my dog to the office?", "Can I bring my bicycle to the office?"),
    ("How tall is Mount Everest?", "How old is Mount Everest?"),
    (
        "Does the insurance of the company car cover damage abroad if I drive it in my holidays?",
        "Does the insurance of the rental car cover damage abroad if I drive it in my holidays?",
    ),
    (
        "Explain the difference between a process and a thread to a beginner, with one example from daily life.",
        "Explain the difference between a stack and a heap to a beginner, with one example from daily life.",
    ),
    ("Set a timer for ten minutes", "Set a timer for two hours"),
    ("Delete the file report.txt from my desktop", "Delete the file invoice.txt from my desktop"),
    (
        "What does the error code E17 of the coffee machine in the kitchen on the third floor mean?",
        "What does the error code E71 of the coffee machine in the kitchen on the third floor mean?",
    ),
)
