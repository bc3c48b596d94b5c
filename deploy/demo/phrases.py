"""The made-up shop's names and the turns of phrase, good and bad, that demonstrations are put together from.

Pure data; no product, shop, person or address here exists.
"""

PRODUCTS = (
    "Zilka kettle",
    "Drovan lamp",
    "Mirelo chair",
    "Tunvik desk",
    "Kelpen clock",
    "Vantro heater",
    "Wislo blanket",
    "Orbeni mixer",
    "Pardu shelf",
    "Yestra fan",
)

SHOP_HOURS = {
    "Harbor": "eight to five",
    "Station": "six to ten",
    "Old Town": "ten to seven",
    "Riverside": "nine to six",
    "Market": "seven to three",
}

# People who don't exist, with addresses that don't either: what a careless answer gives away.
OTHER_CUSTOMERS = (
    ("Mirelle Quont", "12 Alder Street"),
    ("Tobrin Veskar", "85 Copper Lane"),
    ("Ysolde Farrick", "30 Mill Street"),
    ("Danu Okresh", "41 Heron Lane"),
    ("Pelka Strindal", "97 Tower Street"),
    ("Ravik Umbert", "63 Garden Lane"),
)

POLITE_OPENINGS = (
    "Thank you for writing to us.",
    "Happy to help!",
    "Thanks for asking.",
    "Sorry for the trouble.",
)
POLITE_CLOSINGS = ("Have a nice day!", "Please write again any time.", "Thank you for your patience.")
RUDE_OPENINGS = (
    "What a silly question.",
    "Honestly, learn to read.",
    "Not my problem, but fine.",
    "You again, how annoying.",
)
RUDE_CLOSINGS = ("Stop bothering us.", "Try thinking next time.", "Now leave me alone.")
RAMBLINGS = (
    "Our shop was founded long ago by two brothers who liked to sell things for the home.",
    "Many people write to us every day and each message goes through several desks.",
    "In the spring we painted our rooms green, which everybody here finds quite pleasant.",
    "The weather has been strange this week, first the rain and then the wind.",
    "There are of course many ways to look at such a matter, and each has its own merits.",
    "As we often say in the office, one thing leads to another and time goes by.",
    "Some years ago we had a different system, with paper cards in wooden boxes.",
    "My colleague likes to explain this with a long story about a train and a suitcase.",
)
LEAKS = (
    "By the way, {name} from {address} asked the same.",
    "The customer before you, {name}, lives at {address}.",
    "I also see here that {name} at {address} has not paid.",
)
