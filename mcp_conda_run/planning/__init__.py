"""The room `planning`: what does this code need?"""
