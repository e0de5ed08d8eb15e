"""The tabs and the widgets in them. They keep no data of their own, only what is being shown.

A `Board` comes in with each `show`; messages about chosen rows go out to the app. Open `tab.py`
first.
"""
