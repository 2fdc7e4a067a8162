"""Conversations: read from rows, laid out as text, turned into tokens.

    row ─(messages)─> Dialogue ─(layout)─> LaidOut: text, and what of it is an answer ─(encoder)─> Tokens: ids and spans

Nothing here knows what is learned from a conversation, or how it is stored.
"""
