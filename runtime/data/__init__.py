"""The one reader of user data: images, texts and tables in folders, files and archives.

Every reader yields rows. A fault of a single row is part of the row (`DataRow.problem`), and a policy says what happens
to the row: `embed` records it and goes on, `validate` refuses the data. A file that cannot be read any further raises
InputError in both cases.
"""
