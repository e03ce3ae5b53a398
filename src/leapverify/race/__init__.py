"""The race: does leaping pay, against the same schedule made shorter and against what else is known to help?"""
